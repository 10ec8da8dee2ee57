// Two-factor authentication in the browser: with a script, without one, and by keyboard.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { PASSWORD, PHONE, faultsOf, signUp, visit, world } from "./harness.mjs";

const here = world();

// The code of an authenticator app, so many steps from now (RFC 6238).
function codeOf(secret, steps = 0) {
  const digits = [...secret.replaceAll(" ", "")].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(digits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const tag = createHmac("sha1", key).update(counter).digest();
  return String((tag.readUInt32BE(tag.at(-1) & 15) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

async function setUp(page) {
  await page.goto("/account");
  await page.click('a[href="/account/two-factor"]');
  await page.fill("#password", PASSWORD);
  await page.click("#begin-form button");
  await page.locator("svg.qr").waitFor();
  const secret = await page.textContent("#totp-secret");
  await page.fill("#confirm-totp", codeOf(secret));
  await page.click("#confirm-form button");
  await page.locator("#recovery-codes").waitFor();
  return { secret, codes: (await page.textContent("#recovery-codes")).trim().split(/\s+/) };
}

for (const javaScriptEnabled of [true, false]) {
  test(`a code is asked for at log-in ${javaScriptEnabled ? "with" : "without"} a script`, async () => {
    const page = await visit(here, { javaScriptEnabled });
    const email = `ann${javaScriptEnabled}@example.com`;
    await signUp(page, email);
    const { secret, codes } = await setUp(page);
    assert.equal(codes.length, 10);
    await page.goto("/logout");
    await page.goto("/documents");
    await page.fill("#email", email);
    await page.fill("#password", PASSWORD);
    await page.click("#login-form button[type=submit]");
    await page.waitForURL("**/login/code?next=*");
    await page.goto("/account");
    await page.waitForURL("**/login?next=/account");
    await page.goto("/login/code?next=/documents");
    await page.fill("#totp", "not a code");
    await page.click("#code-form button");
    await page.locator("#totp-error", { hasText: "incorrect" }).waitFor();
    assert.equal(await page.getAttribute("#totp", "aria-invalid"), "true");
    // The keyboard alone: the field has the focus.
    await page.fill("#totp", codeOf(secret, 1));
    await page.press("#totp", "Enter");
    await page.waitForURL("**/documents");
    await page.goto("/account/two-factor");
    await page.fill("#disable-totp", codes[0]);
    await page.click("#disable-form button");
    await page.waitForURL("**?done=off");
    if (javaScriptEnabled) page.check_faults();
  });
}

test("a QR code can be read, and axe finds nothing, light and dark, wide and narrow", async () => {
  const page = await visit(here);
  await signUp(page, "axe@example.com");
  await page.goto("/account/two-factor");
  const state = async (what) => {
    for (const options of [{}, { colorScheme: "dark", ...PHONE }]) {
      const context = await here.browser.newContext({ baseURL: here.server.web, ...options });
      await context.addCookies(await page.context().cookies());
      const seen = await context.newPage();
      await seen.goto("/account/two-factor");
      assert.deepEqual(await faultsOf(seen), [], `${what} ${JSON.stringify(options)}`);
      const beyond = await seen.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(beyond <= 0, `${what} is ${beyond} pixels too wide`);
      if (process.env.SCREENSHOTS) await seen.screenshot({ path: `${process.env.SCREENSHOTS}/two-factor-${what}-${options.colorScheme ?? "light"}.png`, fullPage: true });
      await context.close();
    }
  };
  await state("off");
  await page.fill("#password", PASSWORD);
  await page.click("#begin-form button");
  const box = await page.locator("svg.qr").boundingBox();
  assert(box.width > 150 && Math.abs(box.width - box.height) < 1, JSON.stringify(box));
  // Dark modules on a light ground, in the dark too: what readers need.
  const colours = await page.locator("svg.qr path").evaluateAll((paths) => paths.map((path) => getComputedStyle(path).fill));
  assert.deepEqual(colours, ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]);
  await state("begun");
  await page.fill("#confirm-totp", codeOf(await page.textContent("#totp-secret")));
  await page.click("#confirm-form button");
  await page.locator("#recovery-codes").waitFor();
  assert.deepEqual(await faultsOf(page), [], "the codes");
  await state("on");
  const file = page.waitForEvent("download");
  await page.click("text=Download");
  assert.equal((await file).suggestedFilename(), "textgen-recovery-codes.txt");
  page.check_faults();
});
