// Parts of pages that are fetched after them or again and again, links that follow themselves, and reloading.
"use strict";

/** Fetches a part of the page into an element; for a live one, again after so many milliseconds. */
async function fillPart(element) {
  const every = Number(element.dataset.every || 0);
  try {
    const answer = await fetch(element.dataset.part, {headers: {accept: "text/html"}});
    if (answer.redirected || !answer.ok) throw new Error(`${answer.status} ${(await answer.text()).slice(0, 200)}`);
    const text = await answer.text();
    if (text !== element.lastText && !holdsSelection(element)) {
      const atEnd = [...element.querySelectorAll(".log")].map((log) => log.scrollTop + log.clientHeight >= log.scrollHeight - 4);
      // The server escaped everything in it; a script in it would not run under the page's policy either.
      element.innerHTML = text;
      element.lastText = text;
      element.querySelectorAll(".log").forEach((log, number) => { if (atEnd[number] !== false) log.scrollTop = log.scrollHeight; });
      begin(element);
    }
    if (every && !element.querySelector("[data-over]")) setTimeout(() => fillPart(element), every);
  } catch (error) {
    if (!element.lastText) element.textContent = `This part could not be loaded (${error.message}).`;
    if (every) setTimeout(() => fillPart(element), 5 * every);
  }
}

/** Whether the reader is marking text or typing there; then it stays as it is. */
function holdsSelection(element) {
  const selection = getSelection();
  const isMarking = selection && !selection.isCollapsed && element.contains(selection.anchorNode);
  return isMarking || (element.contains(document.activeElement) && document.activeElement.matches("input, textarea"));
}

function begin(root) {
  root.querySelectorAll("[data-part]").forEach(fillPart);
  root.querySelectorAll("[data-reload]").forEach((element) => setTimeout(() => location.reload(), Number(element.dataset.reload)));
  root.querySelectorAll("a[data-follow]").forEach((link) => setTimeout(() => location.replace(link.href), 50));
  root.querySelectorAll("form[data-confirm]").forEach((form) => form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  }));
  root.querySelectorAll("[data-curves]").forEach((element) => globalThis.drawCurves?.(element));
}

document.addEventListener("DOMContentLoaded", () => begin(document));
