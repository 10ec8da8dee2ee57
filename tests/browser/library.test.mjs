// OpenAI's library in a page of another origin, which calls the servers with a key.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join, normalize } from "node:path";
import { after, before, test } from "node:test";
import { makeKey, signUp, visit, world } from "./harness.mjs";

const here = world({ CORS_ORIGINS: "*" }, ["--demo-engine"]);
const library = dirname(createRequire(import.meta.url).resolve("openai"));

let site;
before(async () => {
  site = createServer(async (request, reply) => {
    const path = normalize(request.url.split("?")[0]);
    const file = path === "/" ? null : await readFile(join(library, path)).catch(() => undefined);
    if (file === undefined) return reply.writeHead(404).end();
    reply.writeHead(200, { "Content-Type": file ? "text/javascript" : "text/html" });
    reply.end(file ?? "<!doctype html><title>An app</title>");
  });
  await new Promise((done) => site.listen(0, "127.0.0.1", done));
});
after(() => site.close());

test("the library answers chats, streams, and says what went wrong", async () => {
  const account = await visit(here);
  await signUp(account, "ann@example.com");
  const apiKey = await makeKey(account, "app");

  const page = await visit(here);
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
  const seen = await page.evaluate(async ({ apiKey, baseURL }) => {
    const { default: OpenAI } = await import("/index.mjs");
    const client = new OpenAI({ apiKey, baseURL, dangerouslyAllowBrowser: true });
    const asked = { model: "demo", messages: [{ role: "user", content: "Hello" }] };
    const { data, response, request_id } = await client.chat.completions.create(asked).withResponse();
    let streamed = "";
    for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
      streamed += chunk.choices[0]?.delta.content ?? "";
    }
    const told = await client.responses.create({ model: "demo", input: "Hello" });
    const stranger = new OpenAI({ apiKey: "sk-wrong", baseURL, dangerouslyAllowBrowser: true });
    const error = await stranger.models.list().catch((e) => e);
    return {
      text: data.choices[0].message.content, streamed, told: told.output_text, request: request_id,
      header: response.headers.get("x-request-id"), status: error.status, code: error.code,
    };
  }, { apiKey, baseURL: `${here.server.inference}/v1` });
  assert.match(seen.text, /demo engine/);
  assert.deepEqual([seen.streamed, seen.told], [seen.text, seen.text]);
  assert(seen.request && seen.request === seen.header, "a page may read the request's id");
  assert.deepEqual([seen.status, seen.code], [401, "invalid_api_key"]);
});
