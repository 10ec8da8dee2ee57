// The playground: streams an answer, shows the same call as code, and turns speech into text and back. All requests go
// to this server.
"use strict";
const by = (id) => document.getElementById(id);
const errorOf = async (reply) => {
  const body = await reply.json().catch(() => ({}));
  const message = body.error?.message ?? body.error ?? body.detail;
  return typeof message === "string" ? message : `Request failed (${reply.status})`;
};

async function showCost(place) {
  try {
    const { cost, tokens } = await (await fetch("/playground/cost", { headers: { Accept: "application/json" } })).json();
    if (cost) place.textContent = tokens ? `Cost: ${cost} for ${tokens} tokens` : `Cost: ${cost}`;
  } catch { /* The usage page shows it too. */ }
}

// Says beside the field what went wrong. After the end of a session, nothing that was typed is lost.
function say(place, input, e) {
  place.textContent = e ? e.message : "";
  place.hidden = !e;
  if (!e) { input.removeAttribute("aria-invalid"); return; }
  input.setAttribute("aria-invalid", "true");
  if (e.status === 401) {
    const link = Object.assign(document.createElement("a"), { href: "/login", target: "_blank", textContent: "Log in in a new tab" });
    place.replaceChildren("Your session has ended. ", link, ", then try again.");
  }
  input.focus();
}

async function check(reply) {
  if (!reply.ok) throw Object.assign(new Error(await errorOf(reply)), { status: reply.status });
  return reply;
}

const ask = by("ask");
if (ask) {
  const { prompt, system, model, temperature, max_tokens, history } = ask.elements;
  const answer = by("answer"), place = by("prompt-error"), cost = by("cost"), run = by("run"), stop = by("stop"), asked = by("asked");
  // What was said before, and what is shown as the last answer is the end of it.
  let said = [];
  try { said = JSON.parse(history.value); } catch { /* It begins anew. */ }
  const keep = () => { history.value = JSON.stringify(said); };

  const request = (text, before = said) => {
    const messages = [...before, { role: "user", content: text }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    const body = { messages };
    if (model.value) body.model = model.value;
    if (temperature.value) body.temperature = Number(temperature.value);
    if (max_tokens.value) body.max_tokens = Number(max_tokens.value);
    return body;
  };

  // The examples always match the form.
  const base = document.querySelector("[data-inference]").dataset.inference;
  const write = () => {
    const body = request(prompt.value || prompt.placeholder);
    const json = JSON.stringify({ ...body, stream: true });
    by("code-curl").textContent = `curl -N ${base}/v1/chat/completions \\\n  -H "secret: $SECRET" -H "Content-Type: application/json" \\\n  -d '${json.replaceAll("'", "'\\''")}'`;
    const { messages, ...rest } = body;
    const more = Object.entries({ model: "default", ...rest }).map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`).join("");
    by("code-python").textContent = `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${base}/v1", api_key=os.environ["SECRET"])\nstream = client.chat.completions.create(\n${more}    messages=${JSON.stringify(messages)},\n    stream=True,\n)\nfor event in stream:\n    print(event.choices[0].delta.content or "", end="", flush=True)`;
    by("code-javascript").textContent = `const reply = await fetch("${base}/v1/chat/completions", {\n  method: "POST",\n  headers: { secret: process.env.SECRET, "Content-Type": "application/json" },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nconsole.log((await reply.json()).choices[0].message.content);`;
  };
  ask.addEventListener("input", write);
  write();

  // Shows what was said before the answer.
  const list = (shown) => {
    by("turns").replaceChildren(...shown.map(({ role, content }) => {
      const turn = Object.assign(document.createElement("li"), { className: `turn ${role}` });
      const label = Object.assign(document.createElement("span"), { className: "label", textContent: role === "user" ? "You" : "Model" });
      const text = Object.assign(document.createElement("div"), { className: "said", dir: "auto", textContent: content });
      turn.append(label, text);
      return turn;
    }));
    by("conversation").hidden = !shown.length;
  };
  const finished = (is) => { by("answered").hidden = !is; by("new").hidden = !said.length; };
  finished(said.length > 0);

  let current = null;
  stop.addEventListener("click", () => current?.abort());
  // Asks for an answer to the text, after what was said before. If none comes, everything stays as it was.
  const send = async (text, before = said) => {
    current?.abort();
    current = new AbortController();
    const body = request(text, before);
    list(before);
    answer.textContent = "";
    asked.textContent = text;
    asked.hidden = false;
    by("answered").hidden = true;
    say(place, prompt, null);
    cost.textContent = "Waiting for the model…";
    [run.disabled, stop.hidden] = [true, false];
    let stopped = false;
    try {
      const reply = await check(await fetch("/v1/chat/completions", {
        method: "POST",
        headers: { Accept: "text/event-stream, application/json", "Content-Type": "application/json" },
        body: JSON.stringify({ ...body, stream: true }),
        signal: current.signal,
      }));
      await read(reply.body, (piece) => {
        if (piece.error) throw new Error(piece.error.message ?? piece.error);
        cost.textContent = "Generating…";
        answer.append(piece.choices?.[0]?.delta?.content ?? "");
      });
    } catch (e) {
      stopped = e.name === "AbortError";
      cost.textContent = stopped ? "Stopped. You’re charged for what was generated." : "";
      if (!stopped) {
        // The text stays, to be sent again.
        if (!prompt.value) prompt.value = text;
        say(place, prompt, e);
      }
    }
    [run.disabled, stop.hidden] = [false, true];
    if (place.hidden && answer.textContent) {
      said = [...before, { role: "user", content: text }, { role: "assistant", content: answer.textContent }];
      keep();
      if (prompt.value === text) prompt.value = "";
      by("content").value = answer.textContent;
      prompt.focus();
    } else {
      list(said);
    }
    finished(place.hidden && said.length > 0);
    write();
    if (place.hidden && !stopped) await showCost(cost);
  };
  ask.addEventListener("submit", (event) => {
    event.preventDefault();
    send(prompt.value);
  });
  by("regenerate").addEventListener("click", () => send(said.at(-2).content, said.slice(0, -2)));
  ask.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !run.disabled) ask.requestSubmit();
  });
}

// Reads server-sent events with one JSON value each.
async function read(body, take) {
  let rest = "";
  for (const reader = body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") take(JSON.parse(data));
    }
  }
}

const transcribe = by("transcribe");
if (transcribe) {
  const drop = by("drop"), status = by("transcript-status"), file = by("file");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) {
        file.files = event.dataTransfer.files;
        transcribe.requestSubmit();
      }
    });
  }
  transcribe.addEventListener("submit", async (event) => {
    event.preventDefault();
    status.textContent = "Transcribing…";
    by("transcript").textContent = "";
    try {
      const reply = await fetch(transcribe.action, { method: "POST", headers: { Accept: "application/json" }, body: new FormData(transcribe) });
      await check(reply);
      by("transcript").textContent = await reply.text();
      status.textContent = "";
      await showCost(status);
    } catch (e) {
      status.textContent = e.message;
    }
  });

  const speak = by("speak"), speechStatus = by("speech-status"), player = by("speech");
  speak.addEventListener("submit", async (event) => {
    event.preventDefault();
    speechStatus.textContent = "Generating speech…";
    say(by("input-error"), speak.elements.input, null);
    try {
      const reply = await fetch(speak.action, { method: "POST", headers: { Accept: "audio/wav, application/json" }, body: new URLSearchParams(new FormData(speak)) });
      await check(reply);
      URL.revokeObjectURL(player.src);
      player.src = URL.createObjectURL(await reply.blob());
      player.hidden = false;
      speechStatus.textContent = "";
      await showCost(speechStatus);
    } catch (e) {
      speechStatus.textContent = "";
      say(by("input-error"), speak.elements.input, e);
    }
  });
}
