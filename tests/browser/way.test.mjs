// A user's way through the pages: with JavaScript, without it, and on a phone.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PASSWORD, PHONE, makeKey, signUp, visit, world } from "./harness.mjs";

const here = world();

async function opensEverywhere(secret, status) {
  for (const server of [here.server.web, here.server.inference, here.server.audio]) {
    const reply = await fetch(`${server}/api/current-user`, { headers: { secret } });
    assert.equal(reply.status, status);
  }
}

async function newDocument(page) {
  await page.goto("/documents");
  await page.locator("form[action='/documents'][method=post] button").first().click();
  await page.waitForURL("**/documents/doc_*");
  return page.url().split("/").pop().split("?")[0];
}

test("sign up, make a key, call with it, revoke it, log out", async () => {
  const page = await visit(here);
  await signUp(page, "ann@example.com");
  const secret = await makeKey(page, "laptop");
  assert.match(secret, /^tg_\w{43}$/);
  assert((await page.locator("#new-curl").textContent()).includes(secret));
  await opensEverywhere(secret, 200);
  await page.goto("/account");
  assert(!(await page.content()).includes(secret), "shown twice");
  const row = page.locator("#key-list li", { hasText: "laptop" });
  await row.locator("summary", { hasText: "Manage" }).click();
  assert(!(await row.locator("form[action$=revoke] button").isVisible()), "revoking asks first");
  await row.locator("summary", { hasText: "Revoke" }).click();
  await row.locator("form[action$=revoke] button").click();
  await page.waitForURL("**/account?done=key-revoked");
  await opensEverywhere(secret, 401);
  await page.click("text=Log out");
  await page.waitForURL("**/");
  await page.goto("/account");
  await page.waitForURL("**/login?next=/account");
  page.check_faults();
});

test("a wrong password is said beside its field, and next leads back", async () => {
  const page = await visit(here);
  await signUp(page, "next@example.com");
  await page.goto("/logout");
  await page.goto("/documents");
  await page.fill("#email", "next@example.com");
  await page.fill("#password", "not this one");
  await page.click("#login-form button[type=submit]");
  await page.locator("#password-error", { hasText: "Incorrect e-mail or password" }).waitFor();
  assert.equal(await page.getAttribute("#password", "aria-invalid"), "true");
  assert.equal(await page.inputValue("#email"), "next@example.com", "what was typed stays");
  await page.click("[data-show]");
  assert.equal(await page.getAttribute("#password", "type"), "text");
  await page.fill("#password", PASSWORD);
  await page.click("#login-form button[type=submit]");
  await page.waitForURL("**/documents");
  page.check_faults();
});

test("times are in the visitor's zone", async () => {
  const page = await visit(here, { timezoneId: "Asia/Tokyo", locale: "en-GB" });
  await signUp(page, "tokyo@example.com");
  await page.goto("/account");
  const time = page.locator("time").first();
  const at = new Date(await time.getAttribute("datetime"));
  const expected = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short", timeZone: "Asia/Tokyo" }).format(at);
  assert.equal(await time.textContent(), expected);
});

test("a document saves itself, through an outage and past a conflict", async () => {
  const page = await visit(here);
  await signUp(page, "writer@example.com");
  const id = await newDocument(page);
  const status = page.locator("#status");
  const saved = () => status.filter({ hasText: /^Saved$/ }).waitFor();
  const stored = () => page.evaluate((id) => fetch(`/api/docs/get?id=${id}`).then((r) => r.json()), id);
  await page.fill("#title", "Trip");
  await page.fill("#content", "one");
  await saved();
  assert.deepEqual([(await stored()).title, (await stored()).content], ["Trip", "one"]);

  await page.context().setOffline(true);
  await page.fill("#content", "one, two");
  await status.filter({ hasText: "Offline: saved in this browser" }).waitFor();
  await page.context().setOffline(false);
  await saved();
  assert.equal((await stored()).content, "one, two");

  // Text that never reached the server is restored when the page is opened again.
  await page.context().route("**/api/docs/autosave", (route) => route.abort());
  await page.fill("#content", "one, two, three");
  await status.filter({ hasText: "saved in this browser" }).waitFor();
  await page.context().unroute("**/api/docs/autosave");
  await page.goto(`/documents/${id}`);
  await saved();
  assert.equal(await page.inputValue("#content"), "one, two, three");
  assert.equal((await stored()).content, "one, two, three");

  // Another device saves first.
  await page.evaluate((id) => fetch("/api/docs/save", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id, content: "theirs" }),
  }), id);
  await page.fill("#content", "mine");
  await page.locator("#conflict").waitFor({ state: "visible" });
  assert.equal(await page.inputValue("#mine"), "mine");
  assert.equal(await page.inputValue("#theirs"), "theirs");
  assert.equal((await stored()).content, "theirs", "nothing is overwritten unasked");
  await page.click("#keep-mine");
  await saved();
  assert.equal((await stored()).content, "mine");
  page.check_faults();
});

test("a document is found, published, deleted and brought back", async () => {
  const page = await visit(here);
  await signUp(page, "reader@example.com");
  const id = await newDocument(page);
  await page.fill("#title", "Lighthouse");
  await page.fill("#content", "The lamp turns all night.");
  await page.locator("#status", { hasText: /^Saved$/ }).waitFor();
  await page.goto("/documents?q=TURNS");
  await page.click("text=Lighthouse");
  await page.click("text=Publish");
  await page.waitForURL("**?done=published");
  const stranger = await visit(here);
  await stranger.goto(`/public/${id}`);
  assert.equal(await stranger.textContent("h1"), "Lighthouse");
  await page.click("text=Delete");
  await page.waitForURL("**/documents?deleted=*");
  assert.equal((await stranger.goto(`/public/${id}`)).status(), 404);
  await page.click("text=Undo");
  await page.waitForURL(`**/documents/${id}?done=restored`);
  assert.equal(await page.inputValue("#title"), "Lighthouse");
  page.check_faults();
});

test("all of it works without a script", async () => {
  const page = await visit(here, { javaScriptEnabled: false });
  await signUp(page, "plain@example.com");
  const secret = await makeKey(page, "plain");
  await opensEverywhere(secret, 200);
  const id = await newDocument(page);
  await page.fill("#title", "By hand");
  await page.fill("#content", "first");
  await page.click("#editor button");
  await page.waitForURL("**?done=saved");

  // Two tabs: the later save shows both texts.
  const other = await page.context().newPage();
  await other.goto(`/documents/${id}`);
  await other.fill("#content", "from the other tab");
  await other.click("#editor button");
  await other.waitForURL("**?done=saved");
  await page.fill("#content", "from this tab");
  await page.click("#editor button");
  await page.locator("h1", { hasText: "Two versions" }).waitFor();
  assert.equal(await page.inputValue("#content"), "from this tab");
  assert.equal(await page.inputValue("#theirs"), "from the other tab");
  await page.click("text=Keep my version");
  await page.waitForURL("**?done=saved");
  assert.equal(await page.inputValue("#content"), "from this tab");

  await page.goto("/account");
  await page.locator("#delete-form").locator("xpath=..").locator("summary").click();
  await page.fill("#delete-password", "wrong wrong wrong");
  await page.click("#delete-form button");
  await page.locator("text=Nothing was deleted").waitFor();
  await page.fill("#delete-password", PASSWORD);
  await page.click("#delete-form button");
  await page.waitForURL("**/?done=deleted");
  await page.locator("[role=status]", { hasText: "Your account was deleted" }).waitFor();
  await page.goto("/account");
  await page.waitForURL("**/login?next=/account");
});

test("all of it fits a phone", async () => {
  const page = await visit(here, PHONE);
  await signUp(page, "phone.with.a.rather.long.address@example.com");
  await makeKey(page, "a key with quite a long name that has to go somewhere on a phone as well");
  const id = await newDocument(page);
  for (const path of ["/", "/account", "/documents", `/documents/${id}`, "/playground", "/docs", "/nothing"]) {
    await page.goto(path);
    const beyond = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert(beyond <= 0, `${path} is ${beyond} pixels too wide`);
  }
  page.check_faults();
});
