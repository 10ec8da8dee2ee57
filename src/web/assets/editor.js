// A document that saves itself, says what it is doing, and keeps what it could not save in this browser.
"use strict";
const form = document.getElementById("editor");
const { title, content, version } = form.elements;
const id = form.dataset.id;
const status = document.getElementById("status");
const conflict = document.getElementById("conflict");
const kept = `draft:${id}`;
const PAUSE = 800, FIRST_RETRY = 2000, LONGEST_RETRY = 30000;
let saved = { title: title.value, content: content.value };
let timer = 0, retry = FIRST_RETRY, saving = false, blocked = false;

const changed = () => title.value !== saved.title || content.value !== saved.content;

function show(state, text) {
  status.dataset.state = state;
  status.textContent = text;
}

// The browser's store may be full or forbidden: then the page is all there is, and says so.
function keep() {
  try {
    localStorage.setItem(kept, JSON.stringify({ title: title.value, content: content.value, version: version.value }));
    return true;
  } catch {
    return false;
  }
}

function forget() {
  try { localStorage.removeItem(kept); } catch { /* Nothing was kept. */ }
}

function later(wait) {
  clearTimeout(timer);
  timer = setTimeout(save, wait);
}

function offline(why) {
  show("offline", keep() ? `${why}: kept in this browser` : `${why}: not saved, keep this page open`);
  later(retry);
  retry = Math.min(retry * 2, LONGEST_RETRY);
}

async function save() {
  clearTimeout(timer);
  if (saving || blocked || !changed()) return;
  saving = true;
  show("saving", "Saving…");
  const sent = { title: title.value, content: content.value };
  let reply;
  try {
    reply = await fetch("/api/docs/autosave", {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json" },
      body: JSON.stringify({ id, ...sent, version: Number(version.value) }),
    });
  } catch { /* No network. */ }
  saving = false;
  if (!reply) return offline("Offline");
  if (reply.status >= 500 || reply.status === 429) return offline("The server is busy");
  if (reply.status === 409) return disagree((await reply.json()).document);
  if (reply.status === 401) return stop("You are signed out", true);
  if (!reply.ok) return stop((await reply.json()).error ?? "This cannot be saved", false);
  version.value = (await reply.json()).version;
  saved = sent;
  retry = FIRST_RETRY;
  if (changed()) return later(PAUSE);
  forget();
  show("saved", "Saved");
}

function stop(why, link) {
  blocked = true;
  show("offline", keep() ? `${why}: kept in this browser. ` : `${why}. `);
  if (!link) return;
  const login = document.createElement("a");
  login.href = `/login?next=${encodeURIComponent(location.pathname)}`;
  login.textContent = "Log in";
  status.append(login);
}

// Somebody saved another version: both are shown, and the person decides.
function disagree(theirs) {
  if (theirs.title === title.value && (theirs.content ?? "") === content.value) {
    // The same words by another way: an answer that was lost, perhaps.
    version.value = theirs.version;
    saved = { title: title.value, content: content.value };
    forget();
    return show("saved", "Saved");
  }
  blocked = true;
  keep();
  show("conflict", "Changed elsewhere: choose below");
  document.getElementById("mine").value = content.value;
  document.getElementById("theirs").value = theirs.content ?? "";
  document.getElementById("mine-title").textContent = title.value;
  document.getElementById("theirs-title").textContent = theirs.title;
  conflict.hidden = false;
  form.hidden = true;
  conflict.scrollIntoView();
  conflict.focus();
  const settle = (newTitle, text) => {
    conflict.hidden = true;
    form.hidden = false;
    blocked = false;
    version.value = theirs.version;
    saved = { title: theirs.title, content: theirs.content ?? "" };
    title.value = newTitle;
    content.value = text;
    content.focus();
    if (changed()) return save();
    forget();
    show("saved", "Saved");
  };
  document.getElementById("keep-mine").onclick = () => settle(title.value, document.getElementById("mine").value);
  document.getElementById("take-theirs").onclick = () => settle(theirs.title, theirs.content ?? "");
}

form.addEventListener("input", () => {
  if (blocked) { keep(); return; }
  show("saving", "Not saved yet");
  keep();
  later(PAUSE);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  retry = FIRST_RETRY;
  if (changed()) save();
  else show("saved", "Saved");
});
addEventListener("online", () => { retry = FIRST_RETRY; save(); });
addEventListener("offline", () => { if (changed()) offline("Offline"); });
document.addEventListener("visibilitychange", () => { if (document.hidden) save(); });
addEventListener("beforeunload", (event) => { if (changed() && !keep()) event.preventDefault(); });

// What was kept here and never reached the server is taken up again, on the version it was written on.
try {
  const draft = JSON.parse(localStorage.getItem(kept));
  if (draft && (draft.title !== saved.title || draft.content !== saved.content)) {
    title.value = draft.title;
    content.value = draft.content;
    version.value = draft.version;
    show("saving", "Taking up what this browser kept…");
    save();
  } else {
    forget();
  }
} catch {
  forget();
}
if (!changed()) show("saved", "Saved");
