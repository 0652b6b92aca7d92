// Rating by keys: a button's key presses it, n goes to the note, Escape leaves it. A judgement is sent once.
"use strict";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
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
document.addEventListener("submit", (event) => {
  if (isSent) event.preventDefault();
  isSent = true;
});
addEventListener("pageshow", () => { isSent = false; });
