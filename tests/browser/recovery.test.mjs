// Somebody who has lost the password gets in again by mail, and changes the address.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { PHONE, faultsOf, signUp, visit, world } from "./harness.mjs";

const folder = mkdtempSync(`${tmpdir()}/textgen-mails-`);
const here = world({ MAIL_FOLDER: folder });
const NEW = "another good password";

// The page that the link of the newest mail of a kind leads to.
async function link(kind) {
  for (let tries = 0; ; tries++) {
    const name = readdirSync(folder).find((file) => file.startsWith(`${kind}-`) && file.endsWith(".eml"));
    if (name) {
      const text = readFileSync(`${folder}/${name}`, "utf8").replaceAll("=\r\n", "").replaceAll("=3D", "=");
      return new URL(text.match(/http:\S+\?token=\w+/)[0]);
    }
    assert(tries < 600, `no mail: ${kind}`);
    await new Promise((done) => setTimeout(done, 100));
  }
}

async function look(page, name) {
  assert.deepEqual(await faultsOf(page), [], name);
  if (process.env.SHOTS) {
    for (const [width, colorScheme] of [[390, "light"], [390, "dark"], [1280, "light"], [1280, "dark"]]) {
      await page.setViewportSize({ width, height: 844 });
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${process.env.SHOTS}/${name}-${width}-${colorScheme}.png`, fullPage: true });
      assert.deepEqual(await faultsOf(page), [], `${name} ${width} ${colorScheme}`);
    }
  }
}

test("a forgotten password is replaced, with scripts and without", async () => {
  for (const options of [{}, { ...PHONE, colorScheme: "dark" }, { javaScriptEnabled: false }]) {
    const email = `ann${Math.random()}@example.com`;
    await signUp(await visit(here), email);
    const page = await visit(here, options);
    const hasScripts = options.javaScriptEnabled !== false;
    await page.goto("/login");
    await page.click("text=Forgot your password?");
    if (hasScripts) await look(page, "forgot");
    await page.fill("#email", email);
    await page.keyboard.press("Enter");
    await page.waitForURL("**/forgot-password?done=sent");
    if (hasScripts) await look(page, "sent");
    await page.goto((await link("reset")).href);
    if (hasScripts) await look(page, "reset");
    await page.fill("#password", NEW);
    await page.fill("#password-confirm", "another one");
    await page.keyboard.press("Enter");
    await page.locator("#password-confirm-error").waitFor({ state: "visible" });
    if (hasScripts) await look(page, "mismatch");
    await page.fill("#password", NEW);
    await page.fill("#password-confirm", NEW);
    await page.keyboard.press("Enter");
    await page.waitForURL("**/login?done=password");
    await page.fill("#email", email);
    await page.fill("#password", NEW);
    await page.keyboard.press("Enter");
    await page.waitForURL("**/playground");
    page.check_faults();
    for (const file of readdirSync(folder)) (await import("node:fs")).rmSync(`${folder}/${file}`);
  }
});

test("an address is confirmed and changed, and an administrator makes a link", async () => {
  const page = await visit(here);
  await signUp(page, "bob@example.com");
  await page.goto((await link("verify")).href);
  await look(page, "verify");
  await page.click("text=Yes, confirm");
  await page.waitForURL("**/confirm-email?done=confirmed");
  await look(page, "confirmed");
  await page.goto("/account");
  await page.click("text=Change my e-mail address");
  await look(page, "account");
  await page.fill("#new-email", "new@example.com");
  await page.fill("#email-password", "correct horse battery");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/account?done=email");
  await page.goto((await link("confirm_email")).href);
  await page.click("text=Use this address");
  await page.waitForURL("**/confirm-email?done=changed");
  await page.goto("/account");
  assert.match(await page.locator("h1 + p").textContent(), /new@example\.com/);
  await signUp(await visit(here), "carl@example.com");
  here.server.textgen("user", "promote", "new@example.com");
  const { id } = (await here.server.query("SELECT id FROM users WHERE email = 'carl@example.com'"))[0];
  await page.goto(`/admin/users/${id}`);
  await page.click("text=Create a password link");
  assert.match(await page.locator("#link").textContent(), /reset-password\?token=tl_/);
  await look(page, "link");
  await page.goto("/set-password");
  await look(page, "set");
  page.check_faults();
});
