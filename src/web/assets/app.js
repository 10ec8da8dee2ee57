// Improvements for every page. All pages also work without it.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Times in the visitor's zone and language.
const asLocal = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
for (const time of all("time[datetime]")) {
  const at = new Date(time.dateTime);
  if (isNaN(at)) continue;
  time.title = at.toString();
  time.textContent = asLocal.format(at);
}

// Buttons that only work with a script are hidden without one.
for (const element of all("[data-script]")) element.hidden = false;

// Copy the text of the element named by data-copy.
for (const button of all("[data-copy]")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    const text = source.value ?? source.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Without https there is no clipboard: select the text, so that Ctrl+C copies it.
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, 2500);
  });
}

// Show a password.
for (const button of all("[data-show]")) {
  const inputs = button.dataset.show.split(" ").map((id) => document.getElementById(id));
  button.addEventListener("click", () => {
    const shown = inputs[0].type === "text";
    for (const input of inputs) input.type = shown ? "password" : "text";
    button.textContent = shown ? "Show" : "Hide";
    button.setAttribute("aria-pressed", String(!shown));
  });
}

// Shows an error below its field, or hides it if the text is empty.
function showError(form, field, text) {
  const input = form.elements[field];
  const place = document.getElementById(`${field}-error`);
  place.textContent = text;
  place.hidden = !text;
  if (text) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
  return input;
}

// Sign up and log in without leaving the page when something is wrong.
for (const form of all("#login-form, #signup-form")) {
  const fields = ["email", "password", ...(form.elements.password_confirm ? ["password_confirm"] : [])];
  const clear = () => fields.forEach((field) => showError(form, field, ""));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clear();
    const { email, password, password_confirm: confirm, next } = form.elements;
    if (confirm && confirm.value !== password.value) {
      showError(form, "password_confirm", form.dataset.mismatch).focus();
      return;
    }
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    try {
      const reply = await fetch(form.action, {
        method: "POST",
        headers: { Accept: "application/json", "Content-Type": "application/json" },
        body: JSON.stringify({ email: email.value, password: password.value }),
      });
      if (reply.ok) {
        location.assign(next ? next.value : form.dataset.home);
        return;
      }
      const { detail, code } = await reply.json();
      if (code === "totp_required") {
        // Sent once more as a plain form, which leads to the page that asks for the code.
        form.submit();
        return;
      }
      const text = typeof detail === "string" ? detail : "Enter your e-mail and password";
      const { invalidEmail, invalidCredentials, incorrect } = form.dataset;
      const field = text === invalidEmail ? "email" : "password";
      showError(form, field, text === invalidCredentials ? incorrect : text).focus();
    } catch {
      showError(form, "password", "Can't reach the server. Check your connection and try again.").focus();
    }
    button.disabled = false;
  });
}

// A filter applies as soon as it is chosen.
for (const select of all("select[data-submit]")) select.addEventListener("change", () => select.form.requestSubmit());

// Texts that are not saved yet leave the browser when a person logs out; whoever has some is asked first.
const logOut = { before: [], after: [] };
const drafts = () => {
  try { return Object.keys(localStorage).filter((key) => key.startsWith("draft:")); } catch { return []; }
};
for (const link of all("a.leave")) {
  const leave = () => {
    try {
      for (const key of drafts()) localStorage.removeItem(key);
      localStorage.setItem("logged-out", String(Date.now()));
    } catch { /* There are none. */ }
    for (const forget of logOut.after) forget();
  };
  link.addEventListener("click", async (event) => {
    if (!drafts().length) return leave();
    event.preventDefault();
    for (const save of logOut.before) await save();
    if (!drafts().length) {
      leave();
      return location.assign(link.href);
    }
    const notice = document.createElement("div");
    Object.assign(notice, { className: "notice bad", id: "unsaved", tabIndex: -1 });
    notice.setAttribute("role", "alert");
    const words = document.createElement("p");
    words.append("These documents have text that isn't saved. Logging out deletes it from this browser: ");
    for (const [number, key] of drafts().entries()) {
      const open = document.createElement("a");
      open.href = `/documents/${encodeURIComponent(key.slice("draft:".length))}`;
      try { open.textContent = JSON.parse(localStorage.getItem(key)).title; } catch { /* It has no title. */ }
      open.textContent ||= "Untitled";
      words.append(number ? ", " : "", open);
    }
    const anyway = document.createElement("a");
    Object.assign(anyway, { href: link.href, className: "button danger small", textContent: "Log out anyway", onclick: leave });
    notice.append(words, anyway);
    document.getElementById("unsaved")?.remove();
    document.getElementById("main").prepend(notice);
    notice.focus();
  });
}
