// The playground and the usage page, with the demo engine behind them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PHONE, faultsOf, makeKey, signUp, visit, world } from "./harness.mjs";

const here = world({}, ["--demo-engine"]);

test("a prompt is answered as it is written, with its cost and its code", async () => {
  const page = await visit(here);
  const elsewhere = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(here.server.web) && !request.url().startsWith("blob:")) elsewhere.push(request.url());
  });
  await signUp(page, "ann@example.com");
  await page.reload();
  await page.fill("#prompt", "It's a <b>lighthouse</b>");
  await page.click("#run");
  await page.locator("#cost", { hasText: /^Cost: \$/ }).waitFor();
  const answer = await page.textContent("#answer");
  assert(answer.includes("<b>lighthouse</b>"), answer);
  assert.equal(await page.inputValue("#content"), answer);
  assert((await page.textContent("#code-curl")).includes("It'\\''s a <b>lighthouse</b>"));
  assert((await page.textContent("#code-python")).includes("openai"));
  assert(!/tg_\w{20}/.test(await page.content()), "no secret is in the page");
  assert.deepEqual(elsewhere, [], "the browser talks to the web server alone");

  await page.goto("/usage");
  assert.match(await page.textContent("#newest-calls tbody"), /chat\/completions.*demo.*Browser/s);
  assert.equal(await page.locator("svg.chart").count(), 1);
  page.check_faults();
});

test("a call with a key appears under the key's name, and in the download", async () => {
  const page = await visit(here);
  await signUp(page, "caller@example.com");
  const secret = await makeKey(page, "build server");
  const reply = await fetch(`${here.server.inference}/v1/chat/completions`, {
    method: "POST", headers: { secret, "Content-Type": "application/json" },
    body: JSON.stringify({ messages: [{ role: "user", content: "Hello" }] }),
  });
  assert.equal(reply.status, 200);
  await page.goto("/usage");
  assert.match(await page.textContent("#newest-calls tbody"), /build server/);
  await page.selectOption("#period", "30");
  await page.waitForURL("**/usage?period=30");
  const csv = await page.evaluate(() => fetch("/usage.csv").then((reply) => reply.text()));
  assert.match(csv, /^day,server,.*\r\n\d{4}-\d\d-\d\d,inference,\/v1\/chat\/completions,demo,build server,1,/);
  page.check_faults();
});

test("speech becomes text, and text speech", async () => {
  const page = await visit(here);
  await signUp(page, "speaker@example.com");
  await page.goto("/playground/speech");
  await page.fill("#input", "Good morning");
  await page.click("#speak button");
  await page.locator("#speech").waitFor({ state: "visible" });
  const length = await page.evaluate(() => new Promise((done) => {
    const player = document.getElementById("speech");
    if (player.readyState > 0) done(player.duration);
    player.onloadedmetadata = () => done(player.duration);
    player.onerror = () => done(-1);
  }));
  assert(length > 0, "the sound can be played");
  const wav = Buffer.concat([Buffer.from(
    "524946462440000057415645666d74201000000001000100803e0000007d0000020010006461746100400000", "hex"), Buffer.alloc(16384)]);
  await page.setInputFiles("#file", { name: "a.wav", mimeType: "audio/wav", buffer: wav });
  await page.click("#transcribe button");
  await page.locator("#transcript-status", { hasText: /^Cost:/ }).waitFor();
  assert.notEqual((await page.textContent("#transcript")).trim(), "");
  page.check_faults();
});

test("a prompt is answered without a script too", async () => {
  const page = await visit(here, { javaScriptEnabled: false });
  await signUp(page, "plain@example.com");
  await page.fill("#prompt", "Hello there");
  await page.click("#run");
  await page.waitForURL("**/playground/ask");
  assert.match(await page.textContent("#answer"), /Hello there/);
  assert.match(await page.textContent("#cost"), /\$/);
});

test("axe finds nothing on them, light and dark, wide and narrow", async () => {
  const page = await visit(here);
  await signUp(page, "axe@example.com");
  await page.fill("#prompt", "Hello");
  await page.click("#run");
  await page.locator("#cost", { hasText: /^Cost:/ }).waitFor();
  here.server.textgen("user", "promote", "axe@example.com");
  for (const options of [{}, { colorScheme: "dark", ...PHONE }]) {
    const context = await here.browser.newContext({ baseURL: here.server.web, ...options });
    await context.addCookies(await page.context().cookies());
    const seen = await context.newPage();
    for (const path of ["/playground", "/playground/speech", "/usage", "/usage?period=365", "/admin", "/admin/usage"]) {
      await seen.goto(path);
      for (const summary of await seen.locator("summary").all()) await summary.click();
      assert.deepEqual(await faultsOf(seen), [], `${path} ${JSON.stringify(options)}`);
      const beyond = await seen.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert(beyond <= 0, `${path} is ${beyond} pixels too wide`);
    }
    await context.close();
  }
});
