// Accessibility: axe-core on every page in light and dark mode, and use by keyboard.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PHONE, faultsOf, makeKey, signUp, visit, world } from "./harness.mjs";

const here = world();

test("axe finds nothing on any page", async (t) => {
  const page = await visit(here);
  await signUp(page, "ann@example.com");
  here.server.textgen("user", "promote", "ann@example.com");
  const save = (document) => page.evaluate((document) => fetch("/api/docs/save", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(document),
  }).then((r) => r.json()), document);
  const { id } = await save({ title: "Notes", content: "Hello" });
  await page.evaluate((id) => fetch("/api/docs/publish", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id }),
  }), id);
  const user = (await here.server.query("SELECT id FROM users"))[0].id;
  const paths = [
    "/", "/account", "/documents", "/documents?q=nothing+here", `/documents/${id}`, `/public/${id}`, "/documents/deleted",
    "/playground", "/docs", "/admin", "/admin/users", "/admin/users?q=nobody", "/admin/audit", "/admin/webhooks", `/admin/users/${user}`,
    "/nothing", "/forgot-password", "/reset-password?token=x", "/confirm-email?token=x", "/set-password", "/login", "/login?error=Invalid%20credentials", "/signup", "/signup?error=The%20passwords%20don%27t%20match",
  ];
  for (const options of [{}, { colorScheme: "dark", ...PHONE }]) {
    const context = await here.browser.newContext({ baseURL: here.server.web, ...options });
    await context.addCookies(await page.context().cookies());
    const seen = await context.newPage();
    for (const path of paths) {
      await seen.goto(path);
      for (const summary of await seen.locator("summary").all()) await summary.click();
      assert.deepEqual(await faultsOf(seen), [], `${path} ${JSON.stringify(options)}`);
    }
    await makeKey(seen, "one");
    assert.deepEqual(await faultsOf(seen), [], "a new key");
    await context.close();
  }
});

test("the conflict of an open document is announced", async () => {
  const page = await visit(here);
  await signUp(page, "two@example.com");
  await page.goto("/documents");
  await page.locator("form[action='/documents'][method=post] button").first().click();
  await page.waitForURL("**/documents/doc_*");
  const id = page.url().split("/").pop();
  await page.evaluate((id) => fetch("/api/docs/save", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id, content: "theirs" }),
  }), id);
  await page.fill("#content", "mine");
  await page.locator("#conflict").waitFor({ state: "visible" });
  assert.equal(await page.evaluate(() => document.activeElement.id), "conflict");
  assert.deepEqual(await faultsOf(page), []);
});

test("the keyboard alone signs a person up", async () => {
  const page = await visit(here);
  await page.goto("/signup");
  await page.focus("#email");
  await page.keyboard.type("keys@example.com");
  for (const key of ["Tab", "correct horse", "Tab", "Tab", "correct horse", "Enter"]) {
    if (key.includes(" ")) await page.keyboard.type(key);
    else await page.keyboard.press(key);
  }
  await page.waitForURL("**/playground");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  page.check_faults();
});
