/** The client of Embed Service: typed by its OpenAPI document, with problems as errors and retries where they are safe. */

import createClient, { type Client, type Middleware } from "openapi-fetch";

import type { components, paths } from "./document.js";
import { Problem, problemOf } from "./problem.js";
import { retrying } from "./retrying.js";

export { Problem, Unreachable } from "./problem.js";
export type { components, paths } from "./document.js";

/** The bodies of requests and answers, by their names in the document. */
export type Schemas = components["schemas"];
export type EmbedService = Client<paths>;

export interface Options {
  apiKey?: string;
  /** Longest time until an answer begins; 60,000 by default. An import may take 15 minutes. */
  timeoutMs?: number;
  /** How often a call is made again, where that is safe; 2 by default. */
  retries?: number;
  fetch?: (request: Request) => Promise<Response>;
}

/** A client: `GET`, `POST`, `PUT`, `PATCH` and `DELETE` by path. A refusal is thrown as a `Problem`. */
export function embedService(baseUrl = "http://127.0.0.1:8080", options: Options = {}): EmbedService {
  const client = createClient<paths>({
    baseUrl,
    headers: options.apiKey ? { Authorization: `Bearer ${options.apiKey}` } : {},
    fetch: retrying(options.fetch ?? fetch, options.retries ?? 2, options.timeoutMs ?? 60_000),
  });
  client.use(checked);
  return client;
}

/** The answer of a call: `await ok(client.POST("/v1/hypothesize", { body }))`. */
export async function ok<T>(call: Promise<{ data?: T; response: Response }>): Promise<NonNullable<T>> {
  const { data, response } = await call;
  if (data === undefined || data === null) throw await problemOf(response);
  return data;
}

/** The user's memories that hold now, newest first; the next page is asked for when it is needed. */
export async function* listMemories(
  client: EmbedService,
  query: Omit<NonNullable<paths["/v1/memories"]["get"]["parameters"]["query"]>, "cursor">,
): AsyncGenerator<Schemas["MemoryOut"]> {
  let cursor: string | null = null;
  do {
    const page: Schemas["PageOut"] = await ok(client.GET("/v1/memories", { params: { query: { ...query, cursor } } }));
    yield* page.memories;
    cursor = page.cursor;
  } while (cursor !== null);
}

/** Everything held on a user, line by line as it comes, each without its end. */
export async function* exportUser(client: EmbedService, userId: string): AsyncGenerator<string> {
  const call = client.GET("/v1/memory/export", { params: { query: { user_id: userId } }, parseAs: "stream" });
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of await ok<ReadableStream<Uint8Array>>(call as never)) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  if (rest !== "") yield rest;
}

/** Take in an export, in one transaction. A stream is sent as it is read, so it can be of any size. */
export async function importUser(
  client: EmbedService,
  source: string | Blob | ReadableStream<Uint8Array>,
): Promise<Schemas["ImportedOut"]> {
  const request = {
    body: source,
    bodySerializer: (body: unknown) => body,
    headers: { "Content-Type": "application/x-ndjson" },
    duplex: "half",
  };
  return ok(client.POST("/v1/memory/import", request as never) as Promise<{ data?: Schemas["ImportedOut"]; response: Response }>);
}

const checked: Middleware = {
  onRequest({ params, request }) {
    // A URL has no way to write these as a part of a path: they are steps in it, escaped or not.
    const isStep = Object.values(params.path ?? {}).some((part) => part === "." || part === "..");
    if (isStep) throw new TypeError('a user called "." or ".." cannot be named in a path');
    request.headers.set("X-Request-ID", crypto.randomUUID());
    return request;
  },
  async onResponse({ response, schemaPath }) {
    if (!response.ok && !(schemaPath === "/readyz" && response.status === 503)) throw await problemOf(response);
    if (schemaPath !== "/readyz" || response.ok) return undefined;
    return new Response(response.body, { status: 200, headers: response.headers });
  },
};
