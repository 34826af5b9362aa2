// A remembered fact and a clarifying question with OpenAI's own client, unchanged: node memory.mjs BASE_URL KEY MODEL.
// What came is printed as JSON. The users `nan` and `nia` are known to the service already.
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const said = {};

const vague = { model, messages: [{ role: "user", content: "build api" }], user: "nia" };
const asked = await client.chat.completions.create(vague);
said.question = asked.choices[0].message.content;
said.field = asked.embed_service;

said.streamed = "";
for await (const event of await client.chat.completions.create({ ...vague, stream: true })) {
  said.streamedField ??= event.embed_service;
  said.streamed += event.choices[0]?.delta?.content ?? "";
}

const messages = [{ role: "user", content: "What is the name of my cat?" }];
const { data, response } = await client.chat.completions
  .create({ model, messages, user: "nan", max_tokens: 8 })
  .withResponse();
said.answer = data.choices[0].message.content;
said.used = response.headers.get("x-memories-used");
console.log(JSON.stringify(said));
