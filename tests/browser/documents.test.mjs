// A working day with documents: nothing that was typed is lost, whatever happens; versions; the keyboard; without scripts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { PASSWORD, PHONE, faultsOf, signUp, visit, world } from "./harness.mjs";

const here = world();
const MIB = 1024 * 1024;

async function newDocument(page) {
  await page.goto("/documents");
  await page.locator("form[action='/documents'][method=post] button").first().click();
  await page.waitForURL("**/documents/doc_*");
  return page.url().split("/").pop().split("?")[0];
}

const status = (page, text) => page.locator("#status").filter({ hasText: text }).waitFor();
const saved = (page) => status(page, /^Saved$/);
const stored = (page, id) => page.evaluate((id) => fetch(`/api/docs/get?id=${id}`).then((r) => r.json()), id);
const drafts = (page) => page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith("draft:")));
const elsewhere = (page, body) => page.evaluate((body) => fetch("/api/docs/save", {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
}).then((r) => r.json()), body);

async function logIn(page, email) {
  await page.fill("#email", email);
  await page.fill("#password", PASSWORD);
  await page.click("#login-form button[type=submit]");
}

test("the keyboard alone writes, names and saves a document", async () => {
  const page = await visit(here);
  await signUp(page, "keys@example.com");
  const id = await newDocument(page);
  assert.equal(await page.evaluate(() => document.activeElement.id), "title", "a new document begins with its title");
  await page.keyboard.type("My trip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "content");
  await page.keyboard.type("One two three.");
  await page.locator("#count", { hasText: "3 words · 14 characters" }).waitFor();
  assert.equal(await page.title(), "My trip · textgen");
  await page.keyboard.press("Control+s");
  await saved(page);
  const document = await stored(page, id);
  assert.deepEqual([document.title, document.content], ["My trip", "One two three."]);
  // It opens as it was, without taking the focus.
  await page.goto(`/documents/${id}`);
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "BODY");
  // Hebrew and Arabic run from right to left.
  await page.fill("#content", "שלום עולם");
  assert.equal(await page.evaluate(() => getComputedStyle(document.getElementById("content")).direction), "rtl");
  await saved(page);
  page.check_faults();
});

test("what is typed into a conflict is kept when it is left, and the overwritten text is a version", async () => {
  const page = await visit(here);
  await signUp(page, "merge@example.com");
  const id = await newDocument(page);
  await page.fill("#content", "one\ntwo\nthree");
  await saved(page);
  await elsewhere(page, { id, content: "one\nTWO\nthree\nfour" });
  await page.fill("#content", "one\ntwo\nthree, mine");
  await page.locator("#conflict").waitFor({ state: "visible" });
  await page.locator("#difference del", { hasText: "TWO" }).waitFor();
  await page.locator("#difference ins", { hasText: "three, mine" }).waitFor();
  await page.fill("#mine", "one\nTWO\nthree, mine\nfour");
  await page.locator("#difference del", { hasText: "TWO" }).waitFor({ state: "detached" });
  // Away, and back: the merged text is there again, and so is the conflict.
  await page.goto("/documents");
  await page.goto(`/documents/${id}`);
  await page.locator("#conflict").waitFor({ state: "visible" });
  assert.equal(await page.inputValue("#mine"), "one\nTWO\nthree, mine\nfour");
  assert.equal(await page.inputValue("#theirs"), "one\nTWO\nthree\nfour");
  await page.click("#keep-mine");
  await saved(page);
  assert.equal((await stored(page, id)).content, "one\nTWO\nthree, mine\nfour");
  assert.deepEqual(await drafts(page), []);
  await page.click("a:text-is('Versions')");
  await page.locator("#version-list li").nth(1).locator("text=Compare").click();
  assert.equal(await page.locator(".prose").textContent(), "one\nTWO\nthree\nfour");
  page.check_faults();
});

test("nobody is in conflict with themselves, and late saves never win", async () => {
  const page = await visit(here);
  await signUp(page, "lost@example.com");
  const id = await newDocument(page);
  // The server saves, and the reply is lost; meanwhile more is typed.
  let losses = 0;
  await page.context().route("**/api/docs/autosave", async (route) => {
    await route.fetch();
    losses++;
    await route.abort();
  });
  await page.fill("#content", "saved without a reply");
  await status(page, "Offline: saved in this browser");
  assert.equal((await stored(page, id)).content, "saved without a reply");
  await page.fill("#content", "saved without a reply, and more");
  await page.context().unroute("**/api/docs/autosave");
  await page.keyboard.press("Control+s");
  await saved(page);
  assert(losses > 0);
  assert.equal((await stored(page, id)).content, "saved without a reply, and more");
  assert(!(await page.locator("#conflict").isVisible()));

  // The same after the page was left.
  await page.context().route("**/api/docs/autosave", async (route) => { await route.fetch(); await route.abort(); });
  await page.fill("#content", "lost again");
  await status(page, "Offline: saved in this browser");
  await page.fill("#content", "lost again, and more");
  await page.waitForTimeout(50);
  await page.context().unroute("**/api/docs/autosave");
  await page.goto(`/documents/${id}`);
  await saved(page);
  assert.equal(await page.inputValue("#content"), "lost again, and more");
  assert.equal((await stored(page, id)).content, "lost again, and more");

  // A save that arrives after that of another device.
  let arrive;
  const arrives = new Promise((done) => { arrive = done; });
  await page.context().route("**/api/docs/autosave", async (route) => {
    await arrives;
    await route.continue();
  });
  await page.fill("#content", "late");
  await status(page, "Saving…");
  await elsewhere(page, { id, content: "first" });
  arrive();
  await page.locator("#conflict").waitFor({ state: "visible" });
  assert.equal((await stored(page, id)).content, "first");
  await page.context().unroute("**/api/docs/autosave");
  // It was edited once more: both are shown again, and what was typed stays.
  await page.fill("#mine", "late and merged");
  await elsewhere(page, { id, content: "second" });
  await page.click("#take-theirs");
  await page.waitForFunction(() => document.getElementById("theirs").value === "second");
  assert.equal(await page.inputValue("#mine"), "late and merged");
  await page.click("#take-theirs");
  await page.waitForURL("**?done=kept");
  await saved(page);
  assert.deepEqual([await page.inputValue("#content"), (await stored(page, id)).content], ["second", "second"]);
  // What was not chosen is a version.
  const { versions } = await (await page.request.get(`/api/docs/versions?id=${id}`)).json();
  const mine = await page.request.get(`/api/docs/get?id=${id}&version=${versions[0].version}`);
  assert.equal((await mine.json()).content, "late and merged");
  page.check_faults();
});

test("the editor recovers from a text that is too long, and from a lost network", async () => {
  const page = await visit(here);
  await signUp(page, "long@example.com");
  const id = await newDocument(page);
  assert.equal(await page.getAttribute("#editor", "data-largest"), String(8 * MIB));
  // Browsers take minutes to show so long a text.
  await page.evaluate(() => { document.getElementById("editor").dataset.largest = "100"; });
  await page.fill("#content", "é".repeat(51));
  await status(page, "The text is longer than 8 MiB: saved in this browser");
  await page.fill("#content", "é".repeat(50));
  await saved(page);
  assert.equal((await stored(page, id)).content.length, 50);
  // The same said by the server, or by something before it.
  await page.context().route("**/api/docs/autosave", (route) => route.fulfill({ status: 413, body: "Payload Too Large" }));
  await page.fill("#content", "one");
  await status(page, "This can't be saved: saved in this browser");
  await page.context().unroute("**/api/docs/autosave");
  await page.fill("#content", "one, two");
  await saved(page);
  await page.context().setOffline(true);
  await page.fill("#content", "one, two, three");
  await status(page, "Offline: saved in this browser");
  await page.context().setOffline(false);
  await saved(page);
  assert.equal((await stored(page, id)).content, "one, two, three");
  page.check_faults();
});

test("an ended session costs no text", async () => {
  const page = await visit(here);
  await signUp(page, "ended@example.com");
  const id = await newDocument(page);
  await page.fill("#content", "before");
  await saved(page);
  await here.server.query("DELETE FROM sessions");
  await page.context().clearCookies();
  await page.fill("#content", "before and after");
  await status(page, "You are signed out: saved in this browser");
  await page.click("#status a");
  await page.waitForURL("**/login?next=*");
  await logIn(page, "ended@example.com");
  await page.waitForURL(`**/documents/${id}`);
  await saved(page);
  assert.equal(await page.inputValue("#content"), "before and after");
  assert.equal((await stored(page, id)).content, "before and after");
  // Logged in again in another tab, the first one goes on.
  await page.context().clearCookies();
  await page.fill("#content", "and again");
  await status(page, "You are signed out");
  const other = await page.context().newPage();
  await other.goto("/login");
  await logIn(other, "ended@example.com");
  await other.waitForURL("**/playground");
  await page.bringToFront();
  await page.evaluate(() => dispatchEvent(new Event("focus")));
  await saved(page);
  page.check_faults();
});

test("drafts leave the browser when a person logs out, and not without a word", async () => {
  const page = await visit(here);
  await signUp(page, "leaver@example.com");
  const id = await newDocument(page);
  await page.fill("#title", "Diary");
  // Whatever was typed a moment ago is saved first.
  await page.fill("#content", "typed and gone");
  await page.click("text=Log out");
  await page.waitForURL(`${here.server.web}/`);
  assert.deepEqual(await drafts(page), []);
  await page.goto(`/documents/${id}`);
  await logIn(page, "leaver@example.com");
  await page.waitForURL(`**/documents/${id}`);
  assert.equal(await page.inputValue("#content"), "typed and gone");
  // What cannot be saved is not given up unasked.
  await page.context().route("**/api/docs/autosave", (route) => route.abort());
  await page.fill("#content", "typed and gone, later");
  await status(page, "Offline: saved in this browser");
  await page.click("text=Log out");
  await page.locator("#unsaved", { hasText: "Diary" }).waitFor();
  assert.deepEqual(await faultsOf(page), []);
  assert.equal((await drafts(page)).length, 1);
  await page.click("text=Log out anyway");
  await page.waitForURL(`${here.server.web}/`);
  assert.deepEqual(await drafts(page), []);
  page.check_faults();
});

test("a document that was deleted elsewhere can be saved as another", async () => {
  const page = await visit(here);
  await signUp(page, "gone@example.com");
  const id = await newDocument(page);
  await page.fill("#content", "still needed");
  await saved(page);
  await page.evaluate((id) => fetch("/api/docs/delete", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id }),
  }), id);
  await page.fill("#content", "still needed, more");
  await status(page, "This document was deleted");
  await page.click("text=Save as a new document");
  await page.waitForURL((url) => /\/documents\/doc_/.test(url.href) && !url.href.includes(id));
  assert.equal(await page.inputValue("#content"), "still needed, more");
  page.check_faults();
});

test("versions are listed, compared and restored, and a deletion is undone", async () => {
  const page = await visit(here);
  await signUp(page, "versions@example.com");
  const id = await newDocument(page);
  await page.fill("#title", "Poem");
  await page.fill("#content", "roses are red\nviolets are blue");
  await saved(page);
  await page.click("a:text-is('Versions')");
  await page.locator("text=No earlier versions yet").waitFor();
  await elsewhere(page, { id, content: "roses are red\nviolets are violet", keep_version: true });
  await page.goto(`/documents/${id}/versions`);
  await page.click("text=Compare");
  await page.locator(".difference del", { hasText: "violets are blue" }).waitFor();
  await page.locator(".difference ins", { hasText: "violets are violet" }).waitFor();
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("text=Download as text")]);
  assert.equal(download.suggestedFilename(), "Poem.txt");
  assert.equal(readFileSync(await download.path(), "utf8"), "roses are red\nviolets are blue");
  await page.click("text=Restore this version");
  await page.waitForURL("**?done=reverted");
  assert.equal(await page.inputValue("#content"), "roses are red\nviolets are blue");
  const [exported] = await Promise.all([page.waitForEvent("download"), page.click("text=Export as text")]);
  assert.equal(readFileSync(await exported.path(), "utf8"), "roses are red\nviolets are blue");
  await page.click("text=Delete");
  await page.waitForURL("**/documents?deleted=*");
  await page.click("text=Undo");
  await page.waitForURL(`**/documents/${id}?done=restored`);
  assert.equal(await page.inputValue("#content"), "roses are red\nviolets are blue");
  page.check_faults();
});

test("the public link is copied, and printing prints the text", async () => {
  const page = await visit(here, { permissions: ["clipboard-read", "clipboard-write"] });
  await signUp(page, "print@example.com");
  const id = await newDocument(page);
  const text = Array.from({ length: 200 }, (_, n) => `line ${n}`).join("\n");
  await page.fill("#content", text);
  await saved(page);
  await page.click("text=Publish");
  await page.waitForURL("**?done=published");
  await page.click("[data-copy=public-link]");
  await page.locator("text=Copied").waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), `${here.server.web}/public/${id}`);
  await page.emulateMedia({ media: "print" });
  await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
  assert.equal(await page.locator("#printed").textContent(), text);
  assert(await page.locator("#printed").isVisible());
  for (const hidden of ["#content", "#status", ".top", "text=Delete"]) assert(!(await page.locator(hidden).first().isVisible()), hidden);
  await page.evaluate(() => dispatchEvent(new Event("afterprint")));
  assert.equal(await page.locator("#printed").textContent(), "");
  page.check_faults();
});

test("without scripts: conflicts, versions, and a session that ends", async () => {
  const page = await visit(here, { javaScriptEnabled: false });
  await signUp(page, "plain@example.com");
  const id = await newDocument(page);
  await page.fill("#content", "one\ntwo");
  await page.click("#editor button");
  await page.waitForURL("**?done=saved");
  // The same form sent again, as after a lost reply, is no conflict.
  const other = await page.context().newPage();
  await other.goto(`/documents/${id}`);
  for (const tab of [page, other]) {
    await tab.fill("#content", "one\ntwo\nthree");
    await tab.click("#editor button");
    await tab.waitForURL("**?done=saved");
  }
  // Another text is, and shows how they differ.
  await other.fill("#content", "one\ntwo\n3");
  await other.click("#editor button");
  await other.waitForURL("**?done=saved");
  await page.fill("#content", "one\ntwo\nthree\nfour");
  await page.click("#editor button");
  await page.locator("h1", { hasText: "Two versions" }).waitFor();
  await page.locator(".difference ins", { hasText: "four" }).waitFor();
  await page.click("text=Keep my version");
  await page.waitForURL("**?done=saved");
  await page.click("a:text-is('Versions')");
  await page.click("text=Compare");
  assert.equal(await page.locator(".prose").textContent(), "one\ntwo\n3");
  await page.click("text=Restore this version");
  await page.waitForURL("**?done=reverted");
  // The session ends while the form is filled.
  await page.fill("#content", "typed for an hour");
  await here.server.query("DELETE FROM sessions");
  await page.waitForTimeout(500);
  await page.click("#editor button");
  await page.locator("h1", { hasText: "You were logged out" }).waitFor();
  assert.equal(await page.inputValue("#content"), "typed for an hour");
  const [tab] = await Promise.all([page.context().waitForEvent("page"), page.click("text=Log in (opens a new tab)")]);
  await logIn(tab, "plain@example.com");
  await tab.waitForURL(`**/documents/${id}`);
  await page.click("button:text('Save')");
  await page.waitForURL("**?done=saved");
  assert.equal(await page.inputValue("#content"), "typed for an hour");
});

test("axe finds nothing on these pages, and they fit a phone", async () => {
  const page = await visit(here);
  await signUp(page, "axe@example.com");
  const id = await newDocument(page);
  await page.fill("#title", "A rather long title ".repeat(8));
  await page.fill("#content", `one\n${"long ".repeat(200)}\nthree`);
  await saved(page);
  await elsewhere(page, { id, content: `one\n${"longer ".repeat(200)}${"x".repeat(300)}\nthree\nfour`, keep_version: true });
  const version = 2;
  for (const options of [{}, { colorScheme: "dark" }, PHONE, { colorScheme: "dark", ...PHONE }]) {
    const context = await here.browser.newContext({ baseURL: here.server.web, ...options });
    await context.addCookies(await page.context().cookies());
    const seen = await context.newPage();
    const list = await (await context.request.get(`/api/docs/versions?id=${id}`)).json();
    const name = `${options.colorScheme ?? "light"}-${options.viewport ? 390 : 1280}`;
    const look = async (what) => {
      assert.deepEqual(await faultsOf(seen), [], `${what} ${name}`);
      const beyond = await seen.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(beyond <= 0, `${what} is ${beyond} pixels too wide (${name})`);
      if (process.env.SCREENSHOTS) await seen.screenshot({ path: `${process.env.SCREENSHOTS}/${what}-${name}.png`, fullPage: true });
    };
    for (const [what, path] of Object.entries({
      editor: `/documents/${id}`, versions: `/documents/${id}/versions`,
      version: `/documents/${id}/versions/${list.versions[0].version}`, deleted: "/documents/deleted",
    })) {
      await seen.goto(path);
      await look(what);
    }
    await seen.goto(`/documents/${id}`);
    await saved(seen);
    await elsewhere(seen, { id, content: `one\ntwo of ${name}\nthree\nfour` });
    await seen.fill("#content", `one\n${"longest ".repeat(60)}\nthree\nfour`);
    await seen.locator("#difference ins").first().waitFor();
    await look("conflict");
    await seen.click("#take-theirs");
    await seen.waitForURL("**?done=kept");
    await saved(seen);
    // The page that is shown without scripts.
    const stale = await context.request.post(`/documents/${id}`, {
      headers: { accept: "text/html" }, form: { title: "t", content: `one\ntwo of nobody\nthree`, version: "1" },
    });
    assert.equal(stale.status(), 409);
    await seen.setContent((await stale.text()).replaceAll("\"/assets/", `"${here.server.web}/assets/`));
    await look("conflict-without-scripts");
    await context.close();
  }
});
