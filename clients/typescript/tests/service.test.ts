/** The client against a running service, named by EMBED_SERVICE_URL. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { embedService, exportUser, importUser, listMemories, ok, Problem } from "../src/index.js";

const baseUrl = process.env["EMBED_SERVICE_URL"];
const USER = "ünï/cøde 用户 of Node";

test("a session", { skip: baseUrl === undefined && "EMBED_SERVICE_URL names no service" }, async () => {
  const client = embedService(baseUrl);
  const added = await ok(
    client.POST("/v1/memories", {
      body: {
        user_id: USER,
        memories: [
          { type: "PREFERENCE", content: "I write my services in TypeScript" },
          { type: "CONSTRAINT", content: "Our data has to stay in the EU", tags: ["law"] },
        ],
      },
    }),
  );
  assert.equal(added.ids.length, 2);

  const found = await ok(client.POST("/v1/memories/search", { body: { user_id: USER, query: "where may the data go?", limit: 1 } }));
  assert.equal(found.results[0]?.memory.content, "Our data has to stay in the EU");
  const listed: string[] = [];
  for await (const memory of listMemories(client, { user_id: USER, limit: 1 })) listed.push(memory.id);
  assert.deepEqual(new Set(listed), new Set(added.ids));

  const asked = await ok(client.POST("/v1/hypothesize", { body: { user_id: USER, input_text: "build api", count: 2 } }));
  const chosen = { hypothesis_set_id: asked.hypothesis_set_id, hypothesis_id: asked.hypotheses[0]?.id ?? null };
  const executed = await ok(client.POST("/v1/execute", { body: { user_id: USER, input_text: "build api", ...chosen } }));
  assert.match(executed.enriched_prompt, /build api/);
  const persona = await ok(client.GET("/v1/persona/{user_id}", { params: { path: { user_id: USER } } }));
  assert.equal(persona.user_id, USER);

  const lines: string[] = [];
  for await (const line of exportUser(client, USER)) lines.push(line);
  await ok(client.DELETE("/v1/users/{user_id}", { params: { path: { user_id: USER } } }));
  const whole = new TextEncoder().encode(lines.map((line) => `${line}\n`).join(""));
  const stream = new ReadableStream({ start: (out) => (out.enqueue(whole.slice(0, 99)), out.enqueue(whole.slice(99)), out.close()) });
  assert.equal((await importUser(client, stream)).imported["memories"], lines.filter((line) => line.includes('"table":"memories"')).length);
  const again: string[] = [];
  for await (const line of exportUser(client, USER)) again.push(line);
  assert.deepEqual(again, lines);

  await ok(client.DELETE("/v1/users/{user_id}", { params: { path: { user_id: USER } } }));
  await assert.rejects(ok(client.GET("/v1/persona/{user_id}", { params: { path: { user_id: USER } } })), (error) => error instanceof Problem && error.status === 404);
});
