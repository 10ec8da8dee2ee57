// What persons stumbled over: errors beside their fields, text that stays, an ended session, a conversation.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PASSWORD, PHONE, faultsOf, makeKey, signUp, visit, world } from "./harness.mjs";

const here = world({}, ["--demo-engine"]);
const focused = (page) => page.evaluate(() => document.activeElement.id);
const inView = (page, selector) => page.locator(selector).evaluate((e) => {
  const { top, bottom } = e.getBoundingClientRect();
  return top >= 0 && bottom <= innerHeight;
});

async function shot(page, name) {
  if (!process.env.SCREENSHOTS) return;
  for (const [where, viewport] of [["wide", { width: 1280, height: 900 }], ["narrow", PHONE.viewport]]) {
    for (const colorScheme of ["light", "dark"]) {
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}-${where}-${colorScheme}.png`, fullPage: true });
    }
  }
  await page.setViewportSize({ width: 1280, height: 720 });
}

for (const javaScriptEnabled of [true, false]) {
  const how = javaScriptEnabled ? "with a script" : "without a script";

  test(`the first key is shown once after sign-up, ${how}`, async () => {
    const page = await visit(here, { javaScriptEnabled });
    await signUp(page, `first${javaScriptEnabled}@example.com`);
    const secret = await page.textContent("#new-secret");
    const curl = await page.textContent("#new-curl");
    assert(curl.startsWith(`export SECRET=${secret}\n`) && curl.includes("/v1/chat/completions"), curl);
    const reply = await fetch(`${here.server.inference}/v1/chat/completions`, {
      method: "POST", headers: { Authorization: `Bearer ${secret}`, "Content-Type": "application/json" },
      body: curl.match(/-d '(.*)'$/)[1],
    });
    assert.equal(reply.status, 200, await reply.text());
    await shot(page, `first-key-${javaScriptEnabled}`);
    if (javaScriptEnabled) assert.deepEqual(await faultsOf(page), []);
    await page.reload();
    assert.equal(await page.locator("#new-secret").count(), 0, "shown twice");
    assert(!(await page.content()).includes(secret));
  });

  test(`errors stand beside their fields, which keep what was typed, ${how}`, async () => {
    const page = await visit(here, { javaScriptEnabled });
    const email = `fields${javaScriptEnabled}@example.com`;
    await signUp(page, email);
    await page.goto("/account");
    await page.fill("#key-name", "laptop");
    await page.selectOption("#days", "30");
    await page.fill("#key-limit", "a lot");
    await page.selectOption("#key-window", "week");
    await page.click("#key-form button");
    await page.locator("#key-limit-error").waitFor();
    assert.equal(await page.getAttribute("#key-limit", "aria-invalid"), "true");
    assert.equal(await page.getAttribute("#key-limit", "aria-describedby"), "key-limit-error");
    assert.equal(await focused(page), "key-limit");
    assert(await inView(page, "#key-limit-error"), "in view");
    assert.deepEqual(
      await Promise.all(["#key-name", "#days", "#key-limit", "#key-window"].map((field) => page.inputValue(field))),
      ["laptop", "30", "a lot", "week"],
    );
    if (javaScriptEnabled) assert.deepEqual(await faultsOf(page), []);
    await shot(page, `key-error-${javaScriptEnabled}`);
    await page.goto("/account");
    await page.fill("#current-password", "not this one");
    await page.fill("#new-password", "another good password");
    await page.click("#password-form button:not([type=button])");
    await page.locator("#current-password-error", { hasText: "incorrect" }).waitFor();
    assert.equal(await focused(page), "current-password");
    assert.equal(await page.inputValue("#new-password"), "", "passwords are not kept");

    await page.goto("/logout");
    await page.goto("/login");
    await page.fill("#email", email);
    await page.fill("#password", "not this one");
    await page.click("#login-form button[type=submit]");
    await page.locator("#password-error", { hasText: "Incorrect e-mail or password" }).waitFor();
    assert.equal(await page.inputValue("#email"), email);
    await page.goto("/signup");
    await page.fill("#email", email);
    await page.fill("#password", "another good password");
    await page.fill("#password-confirm", "another good password");
    await page.click("#signup-form button[type=submit]");
    await page.locator("#password-error", { hasText: "If you already have an account, log in" }).waitFor();
    assert.equal(await page.inputValue("#email"), email);
  });

  test(`an ended session costs no text, ${how}`, async () => {
    const page = await visit(here, { javaScriptEnabled });
    const email = `ended${javaScriptEnabled}@example.com`;
    await signUp(page, email);
    await page.fill("#title", "Notes");
    await page.fill("#content", "A long\ntext & <more>");
    await here.server.query("DELETE FROM sessions");
    await new Promise((done) => setTimeout(done, 300));
    await page.click("#playground-form button");
    await page.locator("#again").waitFor();
    await shot(page, `ended-${javaScriptEnabled}`);
    if (javaScriptEnabled) assert.deepEqual(await faultsOf(page), []);
    const tab = page.context().waitForEvent("page");
    await page.click("#again a");
    const other = await tab;
    await other.fill("#email", email);
    await other.fill("#password", PASSWORD);
    await other.click("#login-form button[type=submit]");
    await other.waitForURL("**/playground");
    await page.click("text=Send again");
    await page.locator("a.title", { hasText: "Notes" }).waitFor();
    const rows = await here.server.query(`SELECT content FROM documents d JOIN users u ON u.id = d.user_id WHERE u.email = '${email}'`);
    assert.equal(rows[0].content.replaceAll("\r\n", "\n"), "A long\ntext & <more>");
  });
}

test("a conversation goes on, is stopped, asked again and copied", async () => {
  const page = await visit(here);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"], { origin: here.server.web });
  await signUp(page, "talk@example.com");
  const bodies = [];
  page.on("request", (request) => {
    if (request.url().endsWith("/v1/chat/completions")) bodies.push(request.postDataJSON());
  });
  const answered = () => page.locator("#answered").waitFor({ state: "visible" });
  await page.click("summary:has-text('System prompt')");
  await page.fill("#system", "Be brief");
  await page.fill("#temperature", "0.123");
  await page.fill("#prompt", "one");
  await page.press("#prompt", "Control+Enter");
  await answered();
  assert.equal(await page.inputValue("#prompt"), "");
  const first = await page.textContent("#answer");
  await page.click("#answered [data-copy]");
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), first);
  await page.fill("#prompt", "two");
  await page.click("#run");
  await answered();
  assert.deepEqual(bodies[1].messages.map(({ role, content }) => [role, content]),
    [["system", "Be brief"], ["user", "one"], ["assistant", first], ["user", "two"]]);
  assert.equal(bodies[1].temperature, 0.123);
  assert.deepEqual(await page.locator("#turns .said").allTextContents(), ["one", first]);
  await page.click("#regenerate");
  await page.waitForFunction(() => document.getElementById("answered").hidden === false);
  await answered();
  assert.deepEqual(bodies[2].messages, bodies[1].messages);
  assert.deepEqual(await faultsOf(page), []);
  await shot(page, "conversation");

  // What fails stays, and is said beside the prompt.
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ status: 503, contentType: "application/json", body: '{"error": {"message": "Try later"}}' }));
  await page.fill("#prompt", "three");
  await page.click("#run");
  await page.locator("#prompt-error", { hasText: "Try later" }).waitFor();
  assert.equal(await page.inputValue("#prompt"), "three");
  assert.equal(await focused(page), "prompt");
  await page.unroute("**/v1/chat/completions");
  await here.server.query("DELETE FROM sessions");
  await page.waitForTimeout(300);
  await page.click("#run");
  await page.locator("#prompt-error", { hasText: "Your session has ended" }).waitFor();
  assert.equal(await page.inputValue("#prompt"), "three");
});

test("a conversation and speech work without a script", async () => {
  const page = await visit(here, { javaScriptEnabled: false });
  await signUp(page, "plain@example.com");
  await page.fill("#prompt", "one");
  await page.click("#run");
  await page.waitForURL("**/playground/ask");
  const first = await page.textContent("#answer");
  await page.fill("#prompt", "two");
  await page.click("#run");
  await page.locator("#turns").waitFor();
  assert.deepEqual(await page.locator("#turns .said").allTextContents(), ["one", first]);
  assert.equal(await page.textContent("#asked"), "two");
  await page.fill("#prompt", "three");
  await page.fill("#temperature", "");
  await page.goto("/playground/speech");
  await page.fill("#input", "Good morning");
  const file = page.waitForEvent("download");
  await page.click("#speak button");
  assert.equal((await file).suggestedFilename(), "speech.wav");
});

test("the reference has the addresses, example bodies and replies", async () => {
  const page = await visit(here);
  await page.goto("/docs");
  const text = await page.textContent("main");
  for (const address of [here.server.web, here.server.inference, here.server.audio]) assert(text.includes(address), address);
  const chat = page.locator("#post_v1_chat_completions");
  await chat.locator("summary").click();
  const [call, reply] = await chat.locator("details pre").allTextContents();
  assert(call.includes(`${here.server.inference}/v1/chat/completions`) && call.includes('"messages":[{"role":"user","content":"Hello"}]'), call);
  assert(JSON.parse(reply).choices, reply);
  assert.deepEqual(await faultsOf(page), []);
  await shot(page, "docs");
});

test("usage of a year is shown by month, and amounts as dollars", async () => {
  const page = await visit(here);
  await signUp(page, "year@example.com");
  await here.server.query(`INSERT INTO usage_daily SELECT u.id, current_date - n, 'web', '/r', 'model ' || n % 100, '', 1, 0, 0, 0, 0, 0, 1, 500 + n FROM users u, generate_series(0, 360) n WHERE u.email = 'year@example.com'`);
  await page.goto("/usage?period=365");
  const rows = await page.locator("#days tbody th").count();
  assert(rows >= 12 && rows <= 13, `${rows} months`);
  const costs = (await page.locator("#days tbody td:last-child").allTextContents());
  assert(costs.every((cost) => /^\$\d+\.\d+$/.test(cost)), costs.join());
  assert.equal(new Set(costs.map((cost) => cost.split(".")[1].length)).size, 1, "aligned");
  const html = await (await page.request.get("/usage?period=365")).body();
  assert(html.length < 60_000, `${html.length} bytes`);
  for (const period of ["90", "365"]) {
    await page.goto(`/usage?period=${period}`);
    await page.click("summary");
    assert.deepEqual(await faultsOf(page), []);
    await shot(page, `usage-${period}`);
  }
});
