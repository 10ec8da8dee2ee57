// User input is escaped wherever it is shown.
import assert from "node:assert/strict";
import { test } from "node:test";
import { PASSWORD, makeKey, signUp, visit, world } from "./harness.mjs";

const here = world();
const EVIL = `</textarea></title><script>alert(1)</script><img src=x onerror=alert(2)>"'><svg onload=alert(3)>`;

test("script in every field a person can fill stays text", async () => {
  // The User-Agent is markup too, as the list of sessions shows it.
  const page = await visit(here, { userAgent: EVIL.slice(0, 190) });
  await signUp(page, "mallory@example.com");
  await page.goto("/account");
  await page.fill("#name", EVIL);
  await page.click("text=Save name");
  await makeKey(page, EVIL.slice(0, 100));
  await page.goto("/playground");
  const ids = [];
  for (const title of [EVIL, "plain"]) {
    ids.push(await page.evaluate(([title, content]) => fetch("/api/docs/save", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ title, content }),
    }).then((r) => r.json()).then((r) => r.id), [title, EVIL]));
  }
  await page.evaluate((id) => fetch("/api/docs/publish", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id }),
  }), ids[0]);
  const evil = encodeURIComponent(EVIL);
  const user = (await here.server.query("SELECT id FROM users"))[0].id;
  here.server.textgen("user", "promote", "mallory@example.com");
  // An administrator's reason for a suspension, in the audit log.
  await here.server.query(`INSERT INTO audit (actor, action, user_id, user_email, detail)
    SELECT $$${EVIL}$$, $$${EVIL}$$, id, email, $$${EVIL}$$ FROM users`);
  // Names in the catalogue of models.
  const name = EVIL.replaceAll("'", "");
  await here.server.query(`INSERT INTO providers (name, base_url, protocols, header_names, header_values, ca_file)
    VALUES ('${name}', 'http://127.0.0.1:1/${name}', '{chat}', ARRAY['X'], ARRAY['${name}'], '${name}')`);
  await here.server.query(`INSERT INTO models (name, position) VALUES ('${name}', 0)`);
  await here.server.query(`INSERT INTO model_names (name, model, position, is_alias)
    VALUES ('${name}', '${name}', 1, false), ('${name}2', '${name}', 2, true)`);
  await here.server.query(`INSERT INTO model_routes (model, position, provider, upstream_model, weight, priority)
    VALUES ('${name}', 1, '${name}', '${name}', 1, 0)`);
  const entry = encodeURIComponent(name);
  const paths = [
    "/admin/models", `/admin/models/edit?name=${entry}`, `/admin/providers/edit?name=${entry}`, "/admin/models/file",
    "/account", "/playground", "/documents", `/documents?q=${evil}`, `/documents?deleted=${evil}`, "/documents/deleted",
    `/documents/${ids[0]}`, `/documents/${ids[1]}`, `/public/${ids[0]}`, `/documents/${evil}`, "/admin", "/admin/audit", "/admin/webhooks",
    `/admin/users?q=${evil}`, "/admin/users", `/admin/users/${user}`, `/login?error=${evil}&next=${evil}`,
    `/signup?error=${evil}&next=/${evil}`, `/reset-password?token=${evil}`, `/confirm-email?token=${evil}`, `/${evil}`, "/docs",
  ];
  for (const path of paths) {
    await page.goto(path);
    await page.waitForTimeout(50);
    const strange = await page.evaluate(() =>
      document.querySelectorAll("script:not([src^='/assets/']), img[src='x'], svg[onload]").length);
    assert.equal(strange, 0, `${path} holds markup that a person wrote`);
  }
  // Where the text is edited, it is unchanged.
  await page.goto(`/documents/${ids[0]}`);
  assert.deepEqual([await page.inputValue("#title"), await page.inputValue("#content")], [EVIL, EVIL]);
  page.check_faults();
});

test("next leads to no other site", async () => {
  const page = await visit(here);
  await signUp(page, "open@example.com");
  for (const next of ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "\t//evil.example"]) {
    await page.goto("/logout");
    await page.goto(`/login?next=${encodeURIComponent(next)}`);
    await page.fill("#email", "open@example.com");
    await page.fill("#password", PASSWORD);
    await page.click("#login-form button[type=submit]");
    await page.waitForURL(`${here.server.web}/playground`);
  }
  page.check_faults();
});
