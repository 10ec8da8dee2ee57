// The real binary on free ports with its own database, and a browser.
import assert from "node:assert/strict";
import { spawn, execFileSync } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { after, before } from "node:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import pg from "pg";

const root = fileURLToPath(new URL("../../", import.meta.url));
const binary = process.env.TEXTGEN ?? `${process.env.CARGO_TARGET_DIR ?? `${root}target`}/debug/textgen`;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const PASSWORD = "correct horse battery";

// How long the tests of one file may take, in milliseconds.
const MOST = 240_000;

// Starts everything before a file's tests and stops it after them.
export function world(settings = {}, flags = []) {
  const world = { server: null, browser: null };
  setTimeout(() => {
    console.error(`not done after ${MOST / 1000} s: ${world.server?.log()}`);
    process.exit(1);
  }, MOST).unref();
  before(async () => {
    world.server = await start(settings, flags);
    world.browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
      ],
    });
  });
  after(async () => {
    await world.browser?.close();
    await world.server?.stop();
  });
  return world;
}

async function admin(sql) {
  const client = new pg.Client({ connectionString: process.env.TEST_DATABASE_URL });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

let count = 0;

async function start(settings, flags) {
  const url = process.env.TEST_DATABASE_URL;
  assert(url, "TEST_DATABASE_URL is not set: run `make test-browser`");
  const name = `browser_${process.pid}_${count++}`;
  await admin(`CREATE DATABASE ${name}`);
  const own = url.replace(/\/[^/]*$/, `/${name}`);
  const address = "127.0.0.1:0";
  const journal = mkdtempSync(`${tmpdir()}/textgen-browser-`);
  const env = {
    PATH: process.env.PATH, DATABASE_URL: own, POOL_SIZE: "4",
    JOURNAL_DIR: journal, WEB_ADDR: address, INFERENCE_ADDR: address, AUDIO_ADDR: address, ...settings,
  };
  const child = spawn(binary, ["serve", ...flags], { env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  child.stderr.on("data", (piece) => { log += piece; });
  const found = {};
  for await (const line of createInterface({ input: child.stdout })) {
    const [role, place] = line.split(" ");
    found[role] = place;
    if (role === "audio") break;
  }
  child.stdout.resume();
  const ready = async () => (await fetch(`${found.web}/readyz`).catch(() => ({}))).status === 200;
  for (let tries = 0; !(await ready()); tries++) {
    assert(tries < 600, `the server is not ready: ${log}`);
    await new Promise((done) => setTimeout(done, 100));
  }
  return {
    ...found,
    url: own,
    log: () => log,
    textgen: (...args) => execFileSync(binary, args, { env, encoding: "utf8" }),
    async query(sql) {
      const client = new pg.Client({ connectionString: own });
      await client.connect();
      try { return (await client.query(sql)).rows; } finally { await client.end(); }
    },
    async stop() {
      child.kill("SIGTERM");
      await new Promise((done) => child.once("exit", done));
      rmSync(journal, { recursive: true });
      await admin(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    },
  };
}

export const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };

// A page in a fresh browser context. `check_faults` fails the test if the console has shown errors.
export async function visit(world, options = {}) {
  const context = await world.browser.newContext({ baseURL: world.server.web, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (e) => faults.push(e.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource/.test(message.text())) faults.push(message.text());
  });
  page.on("dialog", (dialog) => { faults.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.check_faults = () => assert.deepEqual(faults, []);
  return page;
}

// Signs up with the form.
export async function signUp(page, email) {
  await page.goto("/signup");
  await page.fill("#email", email);
  await page.fill("#password", PASSWORD);
  await page.fill("#password-confirm", PASSWORD);
  await page.click("#signup-form button[type=submit]");
  await page.waitForURL("**/playground");
}

// Creates a key on the account page. Returns its secret.
export async function makeKey(page, name) {
  await page.goto("/account");
  await page.fill("#key-name", name);
  await page.click("#key-form button");
  return page.locator("#new-secret").textContent();
}

// The problems that axe finds on a page.
export async function faultsOf(page) {
  // The pages' content security policy blocks foreign scripts, so axe is injected by the debugger.
  await page.evaluate(axe);
  const results = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return results.violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((n) => n.html).join(" | ")}`);
}
