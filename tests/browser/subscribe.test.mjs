// Subscribing and buying credit, by way of the pages of a Stripe for tests.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { after, test } from "node:test";
import { faultsOf, signUp, visit, world } from "./harness.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const program = `${process.env.CARGO_TARGET_DIR ?? `${root}target`}/debug/examples/stripe`;

const settings = {
  STRIPE_SECRET_KEY: "sk_test_of_the_fake", STRIPE_WEBHOOK_SECRET: "whsec_of_the_fake",
  BILLING: "prepaid", STRIPE_PRICE_MONTHLY: "price_monthly", STRIPE_PRICE_ANNUAL: "price_annual",
};

const stripe = spawn(program, { stdio: ["pipe", "pipe", "inherit"] });
for await (const line of createInterface({ input: stripe.stdout })) {
  settings.STRIPE_API_URL = line;
  break;
}

const here = world(settings);
after(() => stripe.kill());

// Tells the Stripe where its web-hooks go.
let told = false;
function connect() {
  if (!told) stripe.stdin.write(`${here.server.web}\n`);
  told = true;
}

test("a person subscribes, comes back, and manages the subscription", async () => {
  connect();
  const page = await visit(here);
  await signUp(page, "ann@example.com");
  await page.goto("/account");
  await page.click("a[href='/subscribe']");
  assert.match(await page.locator("#plans").textContent(), /\$19\.00 per month/);
  assert.deepEqual(await faultsOf(page), []);
  await page.click("form:has(input[value=monthly]) button");
  await page.waitForURL("**/c/pay/*");
  assert.equal(await page.locator("#total").textContent(), "US$ 19.00");
  await page.click("#pay");
  await page.waitForURL("**/subscribe?done=subscription");
  for (let tries = 0; !(await page.locator("#state").count()); tries++) {
    assert(tries < 100, "the payment is not seen");
    await page.reload();
  }
  assert.equal(await page.locator("#state").textContent(), "Active");
  assert.deepEqual(await faultsOf(page), []);
  const status = await page.evaluate(() => fetch("/api/subscription-status").then((reply) => reply.json()));
  assert.equal(status.is_subscribed, true);
  await page.click("#manage");
  await page.waitForURL("**/p/session/*");
  await page.click("#cancel");
  await page.click("#back");
  await page.waitForURL("**/account");
  await page.goto("/subscribe");
  for (let tries = 0; !/Ends/.test(await page.locator("dl.facts").textContent()); tries++) {
    assert(tries < 100, "the cancellation is not seen");
    await page.reload();
  }
  page.check_faults();
});

test("a person without scripts buys credit", async () => {
  connect();
  const page = await visit(here, { javaScriptEnabled: false });
  await signUp(page, "bob@example.com");
  await page.goto("/subscribe");
  await page.selectOption("#amount", "2500");
  await page.click("#credit-form button");
  await page.waitForURL("**/c/pay/*");
  await page.click("#pay");
  await page.waitForURL("**/subscribe?done=payment");
  await page.goto("/account");
  for (let tries = 0; !(await page.locator("#balance").count()); tries++) {
    assert(tries < 100, "the credit is not there");
    await page.reload();
  }
  assert.match(await page.locator("#balance").textContent(), /\$25\.00/);
});
