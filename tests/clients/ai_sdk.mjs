// Vercel's AI SDK with its defaults: it speaks Responses.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY });
const model = provider(process.env.MODEL);
const prompt = "Hello";

const { text, usage } = await generateText({ model, prompt });
assert(text && usage.outputTokens > 0);
let pieces = "";
for await (const piece of streamText({ model, prompt }).textStream) pieces += piece;
assert.equal(pieces, text);
const chat = await generateText({ model: provider.chat(process.env.MODEL), prompt });
assert.equal(chat.text, text);
console.log("text: whole and as a stream");

if (process.env.ENGINE === "scripted") {
  const weather = tool({
    description: "The weather of a city", inputSchema: z.object({ city: z.string() }), execute: ({ city }) => `${city} 7`,
  });
  const asked = { model, prompt, tools: { weather }, stopWhen: stepCountIs(3) };
  assert.equal((await generateText(asked)).text, "Oslo 7, Rome 7");
  assert.equal(await streamText(asked).text, "Oslo 7, Rome 7");
  const schema = z.object({ city: z.string(), degrees: z.number() });
  const { output } = await generateText({ model, prompt, output: Output.object({ schema }) });
  assert.deepEqual(output, { city: "Oslo", degrees: 7 });
  console.log("tools and structured output");
}

const { embeddings } = await embedMany({ model: provider.embedding(process.env.MODEL), values: ["a", "b"] });
assert.equal(typeof embeddings[1][0], "number");
console.log("embeddings");
