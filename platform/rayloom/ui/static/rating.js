// Rating by keys: a button's key presses it, n goes to the note, Escape leaves it. A judgement is sent once at a time,
// and the page stays, with the note, until the server has said that it is kept.
"use strict";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("input[type=text]")) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.target.id === "note") { event.preventDefault(); event.target.blur(); }
    return;
  }
  const focus = document.querySelector(`[data-focus="${CSS.escape(event.key)}"]`);
  if (focus) { event.preventDefault(); focus.focus(); return; }
  document.querySelector(`button[data-key="${CSS.escape(event.key)}"]:not(:disabled)`)?.click();
});

let isSent = false;
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  if (isSent) return;
  isSent = true;
  const unsent = document.getElementById("unsent");
  unsent.hidden = true;
  try {
    const answer = await fetch(form.action, {
      method: "POST", body: new URLSearchParams(new FormData(form, event.submitter)),
    });
    if (answer.ok) { location.assign(answer.url); return; }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    unsent.textContent = (page.querySelector(".problem") ?? page.body).textContent;
  } catch {
    unsent.textContent = "The server does not answer, so this may not be kept yet. Leave the page open; once " +
      "`rayloom rate` runs again, press the same key again.";
  }
  unsent.hidden = false;
  isSent = false;
});
addEventListener("pageshow", () => { isSent = false; });
