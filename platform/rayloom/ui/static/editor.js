// The job editor: the text is checked while one types, and the form writes into the text.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const text = document.getElementById("job-text");
  const form = document.getElementById("form");
  const verdict = document.getElementById("verdict");
  let waiting = null, asked = 0;

  async function send(address, fields) {
    const number = ++asked;
    const answer = await fetch(address, {method: "POST", body: new URLSearchParams(fields)});
    const said = await answer.json();
    if (number !== asked) return; // a later change is on its way
    if (said.problem) { verdict.textContent = said.problem; return; }
    if (said.text !== text.value) text.value = said.text;
    verdict.innerHTML = said.verdict;
    redraw(said.form);
  }

  /** The form anew, with the same parts open and the cursor where it was. */
  function redraw(html) {
    const open = new Map([...form.querySelectorAll("details")].map((one) => [one.dataset.path, one.open]));
    const focused = form.contains(document.activeElement) ? document.activeElement.id : null;
    form.innerHTML = html;
    form.querySelectorAll("details").forEach((one) => { if (open.has(one.dataset.path)) one.open = open.get(one.dataset.path); });
    if (focused) document.getElementById(focused)?.focus();
  }

  text.addEventListener("input", () => {
    clearTimeout(waiting);
    verdict.textContent = "Being checked …";
    waiting = setTimeout(() => send("/editor/check", {text: text.value}), 300);
  });
  form.addEventListener("change", (event) => {
    const path = event.target.dataset.path;
    if (path) send("/editor/change", {text: text.value, path, value: event.target.value});
  });
  // Enter in a field of the form takes its value, and does not run the job.
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("input")) { event.preventDefault(); event.target.blur(); event.target.focus(); }
  });
});
