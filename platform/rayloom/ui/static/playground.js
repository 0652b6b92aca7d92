// The playground: every marked model gets the message at once; answers come as they are written, with tokens and times.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("playground");
  if (!form) return;
  const answers = document.getElementById("answers"), stop = document.getElementById("stop");
  const question = document.getElementById("question");
  const conversations = new Map();
  let running = null;

  function panel(service, model) {
    const key = `${service} ${model}`;
    if (!conversations.has(key)) {
      const box = document.createElement("section"), head = document.createElement("h3");
      box.className = "panel";
      box.setAttribute("aria-label", `${model} of ${service}`);
      head.textContent = model;
      box.append(head);
      answers.append(box);
      conversations.set(key, {box, messages: []});
    }
    return conversations.get(key);
  }

  function added(box, role, className) {
    const line = document.createElement("div"), who = document.createElement("span"), text = document.createElement("div");
    line.className = "turn";
    who.className = "role";
    who.textContent = role;
    text.className = className;
    line.append(who, text);
    box.append(line);
    return {text, who};
  }

  async function ask(service, model, fields, signal) {
    const one = panel(service, model);
    const asked = {role: "user", content: fields.question};
    added(one.box, "user", "").text.textContent = fields.question;
    const {text, who} = added(one.box, "assistant", "answer");
    const messages = [...(fields.system ? [{role: "system", content: fields.system}] : []), ...one.messages, asked];
    const began = performance.now();
    let first = null, usage = null, pieces = 0, whole = "";
    const note = (end) => {
      const seconds = (performance.now() - began) / 1000, tokens = usage?.completion_tokens ?? pieces;
      const until = first === null ? "" : `first after ${first.toFixed(2)} s, `;
      const rate = first === null || seconds <= first ? "" : `, ${((tokens - 1) / (seconds - first)).toFixed(1)} tokens/s`;
      const prompt = usage ? `${usage.prompt_tokens} tokens in, ` : "";
      who.textContent = `assistant: ${prompt}${tokens} tokens, ${until}${seconds.toFixed(2)} s${rate}${end}`;
    };
    const fail = (message) => {
      const problem = document.createElement("p");
      problem.className = "problem";
      problem.textContent = message;
      one.box.append(problem);
    };
    try {
      const body = new URLSearchParams({...fields.parameters, service, model, messages: JSON.stringify(messages)});
      const answer = await fetch("/playground/ask", {method: "POST", body, signal});
      if (!answer.ok) {
        const said = await answer.text();
        let problem = said;
        try { problem = JSON.parse(said).problem; } catch { /* not ours: shown as it is */ }
        return fail(problem);
      }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = "";;) {
        const {done, value} = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (!line.startsWith("data:") || line.slice(5).trim() === "[DONE]") continue;
          const event = JSON.parse(line.slice(5));
          if (event.problem || event.error) fail(event.problem ?? event.error.message ?? "The service failed");
          const piece = event.choices?.[0]?.delta?.content;
          if (piece) {
            first ??= (performance.now() - began) / 1000;
            pieces += 1;
            whole += piece;
            text.textContent = whole;
          }
          if (event.usage) usage = event.usage;
        }
        note("");
      }
      note("");
    } catch (error) {
      if (error.name === "AbortError") note(", stopped"); else fail(`The answer broke off (${error.message})`);
    }
    if (whole) one.messages.push(asked, {role: "assistant", content: whole});
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const chosen = [...form.querySelectorAll("input[name=model]:checked")];
    if (running || !chosen.length || !question.value.trim()) return;
    const parameters = {};
    for (const name of ["max_tokens", "temperature", "top_p", "frequency_penalty", "seed", "key"]) parameters[name] = form.elements[name].value;
    const fields = {parameters, system: form.elements.system.value, question: question.value};
    running = new AbortController();
    stop.disabled = false;
    await Promise.all(chosen.map((one) => ask(one.dataset.service, one.dataset.model, fields, running.signal)));
    running = null;
    stop.disabled = true;
    question.value = "";
    question.focus();
  });
  question.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) form.requestSubmit(); });
  stop.addEventListener("click", () => running?.abort());
  document.getElementById("clear").addEventListener("click", () => { running?.abort(); conversations.clear(); answers.replaceChildren(); });
});
