// Anthropic's library for JavaScript: messages, streams, tools, counting, errors.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic();
const messages = [{ role: "user", content: "Hello" }];
const asked = { model: process.env.MODEL, max_tokens: 100, messages };

const reply = await client.messages.create(asked);
assert(reply.content[0].text && reply.usage.output_tokens > 0);
const stream = client.messages.stream(asked);
assert.equal(await stream.finalText(), reply.content[0].text);
assert((await client.messages.countTokens({ model: asked.model, messages })).input_tokens > 0);
console.log("messages: whole, as a stream, counted");

if (process.env.ENGINE === "scripted") {
  const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tools = [{ name: "weather", description: "The weather", input_schema }];
  const { content, stop_reason } = await client.messages.stream({ ...asked, tools }).finalMessage();
  const calls = content.filter((block) => block.type === "tool_use");
  assert.deepEqual([stop_reason, calls.map((call) => call.input.city)], ["tool_use", ["Oslo", "Rome"]]);
  const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: `${call.input.city} 7` }));
  const told = await client.messages.create({
    ...asked, tools, messages: [...messages, { role: "assistant", content }, { role: "user", content: results }],
  });
  assert.equal(told.content[0].text, "Oslo 7, Rome 7");
  console.log("messages: tools");
}

await assert.rejects(new Anthropic({ apiKey: "sk-wrong" }).messages.create(asked), Anthropic.AuthenticationError);
await assert.rejects(client.messages.create({ ...asked, model: "none" }), Anthropic.NotFoundError);
console.log("errors: as the library knows them");
