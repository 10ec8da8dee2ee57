// Saves a document while it is edited, shows the state, and keeps a draft in the browser of what is not saved yet.
"use strict";
const form = document.getElementById("editor");
const { title, content, version } = form.elements;
const id = form.dataset.id;
const status = document.getElementById("status");
const conflict = document.getElementById("conflict");
const draftKey = `draft:${id}`;
const PAUSE = 800, FIRST_RETRY = 2000, LONGEST_RETRY = 30000;
let saved = { title: title.value, content: content.value };
let timer = 0, retry = FIRST_RETRY, saving = false, inConflict = false;

const changed = () => title.value !== saved.title || content.value !== saved.content;

function show(state, text) {
  status.dataset.state = state;
  status.textContent = text;
}

// Returns false if the browser's storage is full or disabled: then only the page itself holds the text.
function keepDraft() {
  try {
    localStorage.setItem(draftKey, JSON.stringify({ title: title.value, content: content.value, version: version.value }));
    return true;
  } catch {
    return false;
  }
}

function forgetDraft() {
  try { localStorage.removeItem(draftKey); } catch { /* There is no draft. */ }
}

function saveAfter(wait) {
  clearTimeout(timer);
  timer = setTimeout(save, wait);
}

function offline(why) {
  show("offline", keepDraft() ? `${why}: saved in this browser` : `${why}: not saved, keep this page open`);
  saveAfter(retry);
  retry = Math.min(retry * 2, LONGEST_RETRY);
}

async function save() {
  clearTimeout(timer);
  if (saving || inConflict || !changed()) return;
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
  if (reply.status === 409) return showConflict((await reply.json()).document);
  if (reply.status === 401) return stop("You are signed out", true);
  if (!reply.ok) return stop((await reply.json()).error ?? "This can't be saved", false);
  version.value = (await reply.json()).version;
  saved = sent;
  retry = FIRST_RETRY;
  if (changed()) return saveAfter(PAUSE);
  forgetDraft();
  show("saved", "Saved");
}

function stop(why, link) {
  inConflict = true;
  show("offline", keepDraft() ? `${why}: saved in this browser. ` : `${why}. `);
  if (!link) return;
  const login = document.createElement("a");
  login.href = `/login?next=${encodeURIComponent(location.pathname)}`;
  login.textContent = "Log in";
  status.append(login);
}

// Somebody saved another version: both are shown, and the person decides.
function showConflict(theirs) {
  if (theirs.title === title.value && (theirs.content ?? "") === content.value) {
    // The same text is already there, perhaps because a reply to an earlier save was lost.
    version.value = theirs.version;
    saved = { title: title.value, content: content.value };
    forgetDraft();
    return show("saved", "Saved");
  }
  inConflict = true;
  keepDraft();
  show("conflict", "Edited elsewhere – choose a version");
  document.getElementById("mine").value = content.value;
  document.getElementById("theirs").value = theirs.content ?? "";
  document.getElementById("mine-title").textContent = title.value;
  document.getElementById("theirs-title").textContent = theirs.title;
  conflict.hidden = false;
  form.hidden = true;
  conflict.scrollIntoView();
  conflict.focus();
  const resolve = (newTitle, text) => {
    conflict.hidden = true;
    form.hidden = false;
    inConflict = false;
    version.value = theirs.version;
    saved = { title: theirs.title, content: theirs.content ?? "" };
    title.value = newTitle;
    content.value = text;
    content.focus();
    if (changed()) return save();
    forgetDraft();
    show("saved", "Saved");
  };
  document.getElementById("keep-mine").onclick = () => resolve(title.value, document.getElementById("mine").value);
  document.getElementById("take-theirs").onclick = () => resolve(theirs.title, theirs.content ?? "");
}

form.addEventListener("input", () => {
  if (inConflict) { keepDraft(); return; }
  show("saving", "Not saved yet");
  keepDraft();
  saveAfter(PAUSE);
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
addEventListener("beforeunload", (event) => { if (changed() && !keepDraft()) event.preventDefault(); });

// Restores a draft that never reached the server, on top of the version it was based on.
try {
  const draft = JSON.parse(localStorage.getItem(draftKey));
  if (draft && (draft.title !== saved.title || draft.content !== saved.content)) {
    title.value = draft.title;
    content.value = draft.content;
    version.value = draft.version;
    show("saving", "Restoring your unsaved draft…");
    save();
  } else {
    forgetDraft();
  }
} catch {
  forgetDraft();
}
if (!changed()) show("saved", "Saved");
