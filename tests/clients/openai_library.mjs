// OpenAI's library for JavaScript: chat, streams, tools, structured output, Responses, embeddings, audio, errors.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI();
const model = process.env.MODEL;
const messages = [{ role: "user", content: "Hello" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const Weather = z.object({ city: z.string(), degrees: z.number() });

const reply = await client.chat.completions.create({ model, messages });
assert(reply.choices[0].message.content && reply.usage.completion_tokens > 0);
let text = "";
for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
  text += chunk.choices[0]?.delta.content ?? "";
}
assert.equal(text, reply.choices[0].message.content);
console.log("chat: whole and as a stream");

const answer = await client.responses.create({ model, input: "Hello" });
assert(answer.output_text && answer.usage.output_tokens > 0);
let pieces = "";
for await (const event of await client.responses.create({ model, input: "Hello", stream: true })) {
  if (event.type === "response.output_text.delta") pieces += event.delta;
}
assert.equal(pieces, answer.output_text);
console.log("responses: whole and as a stream");

if (process.env.ENGINE === "scripted") {
  const weather = ({ city }) => `${city} 7`;
  const tool = { type: "function", function: { name: "weather", parameters, function: weather, parse: JSON.parse } };
  const run = client.chat.completions.runTools({ model, messages, tools: [tool] });
  assert.equal(await run.finalContent(), "Oslo 7, Rome 7");
  const parsed = await client.chat.completions.parse({ model, messages, response_format: zodResponseFormat(Weather, "weather") });
  assert.deepEqual(parsed.choices[0].message.parsed, { city: "Oslo", degrees: 7 });
  const response = await client.responses.parse({ model, input: "Hello", text: { format: zodTextFormat(Weather, "weather") } });
  assert.deepEqual(response.output_parsed, { city: "Oslo", degrees: 7 });
  console.log("tools and structured output");
}

const vectors = await client.embeddings.create({ model, input: ["a", "b"] });
assert.equal(typeof vectors.data[1].embedding[0], "number");
const speech = await client.audio.speech.create({ model, voice: "alloy", input: "Hello", response_format: "wav" });
const sound = Buffer.from(await speech.arrayBuffer());
const heard = await client.audio.transcriptions.create({ model, file: await toFile(sound, "a.wav") });
assert(heard.text);
assert((await client.images.generate({ model, prompt: "a cat" })).data[0].b64_json);
console.log("embeddings, audio, images");

await assert.rejects(new OpenAI({ apiKey: "sk-wrong" }).models.list(), OpenAI.AuthenticationError);
await assert.rejects(client.chat.completions.create({ model: "none", messages }), OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ model, messages, n: 129 }), OpenAI.BadRequestError);
console.log("errors: as the library knows them");
