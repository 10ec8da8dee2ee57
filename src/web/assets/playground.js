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

const ask = by("ask");
if (ask) {
  const request = () => {
    const { prompt, system, model, temperature, max_tokens } = ask.elements;
    const messages = [{ role: "user", content: prompt.value || "Hello" }];
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
    const body = request();
    const json = JSON.stringify({ ...body, stream: true });
    by("code-curl").textContent = `curl -N ${base}/v1/chat/completions \\\n  -H "secret: $SECRET" -H "Content-Type: application/json" \\\n  -d '${json.replaceAll("'", "'\\''")}'`;
    const { messages, ...rest } = body;
    const more = Object.entries({ model: "default", ...rest }).map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`).join("");
    by("code-python").textContent = `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${base}/v1", api_key=os.environ["SECRET"])\nstream = client.chat.completions.create(\n${more}    messages=${JSON.stringify(messages)},\n    stream=True,\n)\nfor event in stream:\n    print(event.choices[0].delta.content or "", end="", flush=True)`;
    by("code-javascript").textContent = `const reply = await fetch("${base}/v1/chat/completions", {\n  method: "POST",\n  headers: { secret: process.env.SECRET, "Content-Type": "application/json" },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nconsole.log((await reply.json()).choices[0].message.content);`;
  };
  ask.addEventListener("input", write);
  write();

  const answer = by("answer"), problem = by("problem"), cost = by("cost"), run = by("run"), stop = by("stop");
  let current = null;
  stop.addEventListener("click", () => current?.abort());
  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    current?.abort();
    current = new AbortController();
    answer.textContent = "";
    problem.hidden = true;
    cost.textContent = "Waiting for the model…";
    [run.disabled, stop.hidden] = [true, false];
    try {
      const reply = await fetch("/v1/chat/completions", {
        method: "POST",
        headers: { Accept: "text/event-stream, application/json", "Content-Type": "application/json" },
        body: JSON.stringify({ ...request(), stream: true }),
        signal: current.signal,
      });
      if (!reply.ok) throw new Error(await errorOf(reply));
      await read(reply.body, (piece) => {
        if (piece.error) throw new Error(piece.error.message ?? piece.error);
        cost.textContent = "Generating…";
        answer.append(piece.choices?.[0]?.delta?.content ?? "");
      });
      by("content").value = answer.textContent;
      await showCost(cost);
    } catch (e) {
      cost.textContent = e.name === "AbortError" ? "Stopped. You’re charged for what was generated." : "";
      problem.textContent = e.name === "AbortError" ? "" : e.message;
      problem.hidden = !problem.textContent;
    }
    [run.disabled, stop.hidden] = [false, true];
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
      if (!reply.ok) throw new Error(await errorOf(reply));
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
    try {
      const reply = await fetch(speak.action, { method: "POST", headers: { Accept: "audio/wav, application/json" }, body: new URLSearchParams(new FormData(speak)) });
      if (!reply.ok) throw new Error(await errorOf(reply));
      URL.revokeObjectURL(player.src);
      player.src = URL.createObjectURL(await reply.blob());
      player.hidden = false;
      speechStatus.textContent = "";
      await showCost(speechStatus);
    } catch (e) {
      speechStatus.textContent = e.message;
    }
  });
}
