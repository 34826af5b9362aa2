/** The client on a fetch of the test's own: retries, problems, streams, pages. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { embedService, exportUser, importUser, listMemories, ok, Problem, Unreachable } from "../src/index.js";

const INFO = { name: "Embed Service", version: "1", slm: "local", model: "m", dim: 3, space: "s", backend: "onnx", normalised: true };
const ADDED = { ids: [], deduplicated: 0, superseded: [] };
const DRAFT = { user_id: "ada", memories: [{ type: "GOAL" as const, content: "run" }] };

type Step = Response | Error;

/** A client that gets one answer after the other, and the requests that it sent. */
function clientOf(...steps: Step[]) {
  const sent: Request[] = [];
  const client = embedService("http://service", {
    apiKey: "k",
    fetch: async (request) => {
      sent.push(request);
      const step = steps.shift();
      if (step === undefined || step instanceof Error) throw step ?? new Error("asked too often");
      return step;
    },
  });
  return { client, sent };
}

function refusal(status: number, headers: Record<string, string> = {}): Response {
  const problem = { type: "urn:x", title: "No", status, detail: "why", request_id: "r1", errors: [{ field: "a", message: "b" }] };
  return Response.json(problem, { status, headers: { "Retry-After": "0", ...headers } });
}

function failure(code: string): Error {
  return Object.assign(new TypeError("fetch failed"), { cause: { code } });
}

test("a read is made again after what passes, with the same id", async () => {
  for (const step of [refusal(429), refusal(502), refusal(503), refusal(504), failure("ECONNRESET")]) {
    const { client, sent } = clientOf(step, Response.json(INFO));
    assert.equal((await ok(client.GET("/info"))).dim, 3);
    assert.equal(sent.length, 2);
    assert.equal(new Set(sent.map((request) => request.headers.get("X-Request-ID"))).size, 1);
    assert.equal(sent[0]?.headers.get("Authorization"), "Bearer k");
  }
});

test("a write is made again only where nothing can have been begun", async () => {
  for (const [step, times] of [[refusal(429), 2], [failure("ECONNREFUSED"), 2], [refusal(503), 1], [failure("ECONNRESET"), 1]] as const) {
    const { client, sent } = clientOf(step, Response.json(ADDED));
    const call = ok(client.POST("/v1/memories", { body: DRAFT }));
    if (times === 2) assert.equal((await call).deduplicated, 0);
    else await assert.rejects(call, (error) => error instanceof Problem || error instanceof Unreachable);
    assert.equal(sent.length, times);
  }
});

test("a search is a read, and its body is sent again", async () => {
  const { client, sent } = clientOf(refusal(503), Response.json({ results: [], space: "s", degraded: false }));
  await ok(client.POST("/v1/memories/search", { body: { user_id: "ada", query: "x", limit: 3 } }));
  const bodies = await Promise.all(sent.map((request) => request.text()));
  assert.equal(bodies[0], bodies[1]);
  assert.equal(JSON.parse(bodies[1] ?? "").query, "x");
});

test("a problem says all it has to say, and a long Retry-After is the caller's", async () => {
  const { client, sent } = clientOf(refusal(503, { "Retry-After": "3600" }));
  await assert.rejects(ok(client.GET("/info")), (error) => {
    assert(error instanceof Problem);
    assert.deepEqual([error.status, error.title, error.detail, error.requestId, error.retryAfterS], [503, "No", "why", "r1", 3600]);
    assert.deepEqual(error.errors, [{ field: "a", message: "b" }]);
    return true;
  });
  assert.equal(sent.length, 1);
});

test("a page of a proxy is a problem too", async () => {
  const { client } = clientOf(new Response("<h1>Bad</h1>", { status: 500, statusText: "Internal Server Error" }));
  await assert.rejects(ok(client.GET("/info")), /^Problem: 500 Internal Server Error$/);
});

test("silence is not waited for longer than asked", async () => {
  const client = embedService("http://service", {
    timeoutMs: 20,
    retries: 0,
    fetch: (request) => new Promise((_, reject) => request.signal.addEventListener("abort", () => reject(request.signal.reason))),
  });
  await assert.rejects(ok(client.GET("/info")), /^Unreachable: GET http:\/\/service: no answer within 20 ms$/);
});

test("readiness is an answer even when not ready", async () => {
  const { client } = clientOf(...[1, 2, 3].map(() => Response.json({ status: "unready", parts: { database: "gone" } }, { status: 503, headers: { "Retry-After": "0" } })));
  assert.deepEqual((await ok(client.GET("/readyz"))).parts, { database: "gone" });
});

test("users of any name reach their own path", async () => {
  const { client, sent } = clientOf(Response.json({}), Response.json({}));
  await ok(client.GET("/v1/persona/{user_id}", { params: { path: { user_id: "ünï/cøde ?#%2F" } } }));
  assert.equal(new URL(sent[0]?.url ?? "").pathname, `/v1/persona/${encodeURIComponent("ünï/cøde ?#%2F")}`);
  await assert.rejects(client.GET("/v1/persona/{user_id}", { params: { path: { user_id: ".." } } }), TypeError);
});

test("an export comes line by line however it was cut", async () => {
  const bytes = new TextEncoder().encode('{"a":"ü\u2028"}\n{"b":"用户"}\n');
  for (let size = 1; size < 8; size++) {
    const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => bytes.slice(index * size, (index + 1) * size));
    const body = new ReadableStream({ start: (out) => (pieces.forEach((piece) => out.enqueue(piece)), out.close()) });
    const lines: string[] = [];
    for await (const line of exportUser(clientOf(new Response(body)).client, "ada")) lines.push(line);
    assert.deepEqual(lines, ['{"a":"ü\u2028"}', '{"b":"用户"}']);
  }
});

test("pages follow one another", async () => {
  const memory = (id: string) => ({ id }) as never;
  const { client, sent } = clientOf(
    Response.json({ memories: [memory("1"), memory("2")], cursor: "c" }),
    Response.json({ memories: [memory("3")], cursor: null }),
  );
  const ids: string[] = [];
  for await (const each of listMemories(client, { user_id: "ada", limit: 2 })) ids.push(each.id);
  assert.deepEqual(ids, ["1", "2", "3"]);
  assert.equal(new URL(sent[1]?.url ?? "").searchParams.get("cursor"), "c");
});

test("an import is sent once, as lines", async () => {
  const { client, sent } = clientOf(refusal(429));
  await assert.rejects(importUser(client, "{}\n"), Problem);
  assert.equal(sent.length, 1);
  assert.equal(sent[0]?.headers.get("Content-Type"), "application/x-ndjson");
  assert.equal(await sent[0]?.text(), "{}\n");
});
