// Saves a document while it is edited, shows the state, and keeps a draft in the browser of what is not saved yet.
"use strict";
const form = document.getElementById("editor");
const { title, content, version } = form.elements;
const id = form.dataset.id;
const status = document.getElementById("status");
const conflict = document.getElementById("conflict");
const mine = document.getElementById("mine");
const PAUSE = 800, FIRST_RETRY = 2000, LONGEST_RETRY = 30000;
// Beyond this size, words are counted roughly, and a difference is not shown anew while the text is edited.
const LONG = 100_000;
let saved = { title: title.value, content: content.value };
let timer = 0, retry = FIRST_RETRY, saving = null, inConflict = false, isSignedOut = false, isLeaving = false, keepVersion = false;
// What was sent without a reply: it may have been saved.
let lost = [];

const changed = () => title.value !== saved.title || content.value !== saved.content;

// A short text that tells texts apart (cyrb53).
function fingerprint(one, other) {
  let a = 0xdeadbeef, b = 0x41c6ce57;
  const text = `${one}\n${other}`;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    a = Math.imul(a ^ code, 2654435761);
    b = Math.imul(b ^ code, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return `${text.length}.${a >>> 0}.${b >>> 0}`;
}

function show(state, text) {
  status.dataset.state = state;
  status.textContent = text;
}

// Returns false if the browser's storage is full or disabled, or the person has logged out: then only the page itself holds the
// text.
function keepDraft() {
  if (isSignedOut) return false;
  const text = inConflict ? mine.value : content.value;
  try {
    localStorage.setItem(`draft:${id}`, JSON.stringify({ title: title.value, content: text, version: version.value, lost }));
    return true;
  } catch {
    return false;
  }
}

function forgetDraft() {
  lost = [];
  try { localStorage.removeItem(`draft:${id}`); } catch { /* There is no draft. */ }
}

function saveAfter(wait) {
  clearTimeout(timer);
  timer = setTimeout(save, wait);
}

function unsaved(why) {
  show("offline", keepDraft() ? `${why}: saved in this browser` : `${why}: not saved, keep this page open`);
}

function offline(why) {
  unsaved(why);
  saveAfter(retry);
  retry = Math.min(retry * 2, LONGEST_RETRY);
}

// Adds a link, or a button that does something, to the state.
function offer(text, target) {
  const choice = document.createElement(typeof target === "string" ? "a" : "button");
  choice.textContent = text;
  if (typeof target === "string") {
    choice.href = target;
  } else {
    Object.assign(choice, { type: "button", className: "quiet small", onclick: target });
  }
  status.append(" ", choice);
}

// One save at a time. Resolves once what was typed before is saved, or is known not to be.
async function save() {
  clearTimeout(timer);
  while (saving) await saving;
  if (inConflict || !changed()) return;
  saving = send();
  try { await saving; } finally { saving = null; }
}

async function send() {
  const sent = { title: title.value, content: content.value };
  if (new Blob([sent.content]).size > Number(form.dataset.largest)) return unsaved("The text is longer than 8 MiB");
  show("saving", "Saving…");
  const mark = fingerprint(sent.title, sent.content);
  const body = { id, ...sent, version: Number(version.value), keep_version: keepVersion };
  let reply, answer;
  try {
    reply = await fetch("/api/docs/autosave", {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    answer = await reply.json();
  } catch { /* No network, or no whole reply. */ }
  if (!answer || reply.status >= 500) lost = [...lost.filter((other) => other !== mark), mark].slice(-20);
  if (!reply || !answer && reply.ok) return offline("Offline");
  if (reply.status >= 500 || reply.status === 429) return offline("The server is busy");
  if (reply.status === 409 && answer?.document) return meet(answer.document);
  if (reply.status === 401) {
    unsaved("You are signed out");
    return offer("Log in", `/login?next=${encodeURIComponent(location.pathname)}`);
  }
  if (reply.status === 404) {
    unsaved("This document was deleted");
    return offer("Save as a new document", saveAsNew);
  }
  // Tried again with the next change.
  if (!reply.ok) return unsaved(answer?.error ?? "This can't be saved");
  version.value = answer.version;
  saved = sent;
  retry = FIRST_RETRY;
  keepVersion = isSignedOut = false;
  lost = [];
  if (changed()) {
    keepDraft();
    return saveAfter(PAUSE);
  }
  forgetDraft();
  show("saved", "Saved");
}

async function saveAsNew() {
  try {
    const reply = await fetch("/api/docs/save", {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json" },
      body: JSON.stringify({ title: title.value, content: content.value }),
    });
    const answer = await reply.json();
    if (!reply.ok) return unsaved(answer.error ?? "This can't be saved");
    saved = { title: title.value, content: content.value };
    forgetDraft();
    location.assign(`/documents/${answer.id}`);
  } catch {
    unsaved("Offline");
    offer("Try again", saveAsNew);
  }
}

// The document has another version than the text is based on.
function meet(theirs) {
  const their = { title: theirs.title, content: theirs.content ?? "" };
  const isSame = their.title === title.value && their.content === content.value;
  // What is there may be from here: the reply to that save was lost.
  if (!isSame && !lost.includes(fingerprint(their.title, their.content))) return showConflict(theirs);
  version.value = theirs.version;
  saved = their;
  lost = [];
  if (changed()) {
    keepDraft();
    return saveAfter(0);
  }
  forgetDraft();
  show("saved", "Saved");
}

// Somebody saved another version: both are shown, and the person decides. What is typed meanwhile stays a draft.
function showConflict(theirs) {
  mine.value = content.value;
  inConflict = true;
  keepDraft();
  show("conflict", "Edited elsewhere – choose a version");
  document.getElementById("theirs").value = theirs.content ?? "";
  document.getElementById("mine-title").textContent = title.value;
  document.getElementById("theirs-title").textContent = theirs.title;
  conflict.hidden = false;
  form.hidden = true;
  conflict.scrollIntoView();
  conflict.focus();
  showDifference();
  const resolve = (newTitle, text) => {
    conflict.hidden = true;
    form.hidden = false;
    inConflict = false;
    keepVersion = true;
    version.value = theirs.version;
    saved = { title: theirs.title, content: theirs.content ?? "" };
    title.value = newTitle;
    content.value = text;
    content.focus();
    shown();
    if (changed()) {
      keepDraft();
      return save();
    }
    forgetDraft();
    show("saved", "Saved");
  };
  document.getElementById("keep-mine").onclick = () => resolve(title.value, mine.value);
  document.getElementById("take-theirs").onclick = () => takeTheirs(theirs);
}

// The saved version stays, and the text from here becomes an earlier version. Until that is done, both are still shown.
async function takeTheirs(theirs) {
  show("saving", "Saving…");
  try {
    const body = { title: title.value, content: mine.value, version: theirs.version, use_saved: true };
    const reply = await fetch(`/documents/${encodeURIComponent(id)}`, {
      method: "POST", headers: { Accept: "application/json", "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    if (reply.ok) {
      forgetDraft();
      isLeaving = true;
      return location.assign(`/documents/${encodeURIComponent(id)}?done=kept`);
    }
    if (reply.status !== 409) return show("conflict", (await reply.json()).detail ?? "This can't be saved");
    // It was edited once more.
    const found = await fetch(`/api/docs/get?id=${encodeURIComponent(id)}`);
    if (!found.ok) return show("conflict", "This can't be saved");
    content.value = mine.value;
    showConflict(await found.json());
  } catch {
    show("conflict", "Offline – try again");
  }
}

// The server finds how the texts differ.
async function showDifference() {
  const place = document.getElementById("difference");
  try {
    const reply = await fetch(`/documents/${encodeURIComponent(id)}/difference`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ content: mine.value }),
    });
    const page = new DOMParser().parseFromString(reply.ok ? await reply.text() : "", "text/html");
    place.replaceChildren(...page.body.childNodes);
  } catch {
    place.replaceChildren();
  }
}

// What else shows the text: the name of the tab and the number of words.
function shown() {
  document.title = `${title.value.trim() || "Untitled"} · textgen`;
  const text = content.value;
  let words;
  if (text.length < LONG && Intl.Segmenter) {
    words = 0;
    for (const part of new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)) if (part.isWordLike) words++;
  } else {
    words = text.match(/\S+/g)?.length ?? 0;
  }
  document.getElementById("count").textContent =
    `${words.toLocaleString()} ${words === 1 ? "word" : "words"} · ${text.length.toLocaleString()} ${text.length === 1 ? "character" : "characters"}`;
}

let showing = 0, comparing = 0;
function changes() {
  show("saving", "Not saved yet");
  keepDraft();
  saveAfter(PAUSE);
  clearTimeout(showing);
  showing = setTimeout(shown, content.value.length < LONG ? 150 : 2000);
}
form.addEventListener("input", changes);
mine.addEventListener("input", () => {
  keepDraft();
  clearTimeout(comparing);
  if (mine.value.length < LONG) comparing = setTimeout(showDifference, PAUSE);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  saveNow();
});
function saveNow() {
  retry = FIRST_RETRY;
  if (changed()) save();
  else if (!inConflict) show("saved", "Saved");
}
title.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  content.focus();
  content.setSelectionRange(0, 0);
});
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.key.toLowerCase() !== "s") return;
  event.preventDefault();
  saveNow();
});
addEventListener("online", saveNow);
addEventListener("offline", () => { if (changed() && !inConflict) offline("Offline"); });
// Somebody may have logged in again in another tab.
addEventListener("focus", () => { if (changed()) save(); });
document.addEventListener("visibilitychange", () => { if (document.hidden) save(); });
addEventListener("beforeunload", (event) => { if (changed() && !isLeaving && !keepDraft()) event.preventDefault(); });
// Another tab has logged out, and removed the drafts.
addEventListener("storage", (event) => { if (event.key === "logged-out") isSignedOut = true; });
// A text area prints only what is in view.
const printed = document.getElementById("printed");
addEventListener("beforeprint", () => {
  printed.textContent = inConflict ? mine.value : content.value;
  document.getElementById("printed-title").textContent = title.value;
});
addEventListener("afterprint", () => { printed.textContent = ""; });
// Saved before the drafts leave the browser, see app.js.
logOut.before.push(save);
logOut.after.push(() => { isSignedOut = isLeaving = true; });

// Restores a draft that never reached the server, on top of the version it was based on.
try {
  const draft = JSON.parse(localStorage.getItem(`draft:${id}`));
  if (draft && (draft.title !== saved.title || draft.content !== saved.content)) {
    title.value = draft.title;
    content.value = draft.content;
    version.value = draft.version;
    lost = draft.lost ?? [];
    show("saving", "Restoring your unsaved draft…");
    save();
  } else {
    forgetDraft();
  }
} catch {
  forgetDraft();
}
if (!changed()) show("saved", "Saved");
shown();
if (title.autofocus) title.select();
