// One conversation with OpenAI's own client, unchanged: node conversation.mjs BASE_URL KEY MODEL. What came is printed
// as JSON, without what differs from call to call.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Name three fruits." }];
const plain = { model, messages, temperature: 0, seed: 1, max_tokens: 24 };
const tool = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string", maxLength: 12 } }, required: ["city"] },
  },
};
const said = {};

const listed = [];
for await (const each of await client.models.list()) listed.push(each.id);
said.models = listed;

const whole = await client.chat.completions.create(plain);
said.whole = { choice: whole.choices[0], usage: whole.usage.total_tokens };

const pieces = [];
let last = null;
const streamed = await client.chat.completions.create({
  ...plain,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const event of streamed) {
  if (event.choices[0]?.delta?.content) pieces.push(event.choices[0].delta.content);
  if (event.usage) last = event.usage.total_tokens;
}
said.streamed = { pieces, usage: last };

const called = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "What is the weather in Rome?" }],
  tools: [tool],
  tool_choice: "required",
  temperature: 0,
  max_tokens: 64,
});
const calls = called.choices[0].message.tool_calls ?? [];
said.tools = calls.map((call) => [call.function.name, call.function.arguments]);

const built = [];
const inPieces = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "What is the weather in Rome?" }],
  tools: [tool],
  tool_choice: "required",
  stream: true,
  temperature: 0,
  max_tokens: 24,
});
for await (const event of inPieces) {
  for (const piece of event.choices[0]?.delta?.tool_calls ?? []) {
    built[piece.index] ??= ["", ""];
    built[piece.index][0] += piece.function.name ?? "";
    built[piece.index][1] += piece.function.arguments ?? "";
  }
}
said.toolPieces = built;

if (calls.length) {
  const result = await client.chat.completions.create({
    ...plain,
    messages: [
      { role: "user", content: "What is the weather in Rome?" },
      { role: "assistant", content: "", tool_calls: [{ ...calls[0], id: "call_1" }] },
      { role: "tool", tool_call_id: "call_1", content: "sunny" },
    ],
    tools: [tool],
  });
  said.result = result.choices[0].message.content;
}

try {
  await client.chat.completions.create({ model, messages: "not a list" });
} catch (error) {
  said.error = [error.constructor.name, error.status, error.error];
}
console.log(JSON.stringify(said));
