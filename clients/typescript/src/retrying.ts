/** When a call is made again: reads after anything that may pass, writes only where nothing can have been begun. */

import { Unreachable, retryAfterS } from "./problem.js";

const READS = new Set([
  "/embed",
  "/v1/embeddings",
  "/v1/enrich",
  "/v1/followups",
  "/v1/memories/search",
  "/v1/rerank",
]);
const IMPORT = "/v1/memory/import";
const IMPORT_MS = 900_000;
const TOO_BUSY = 429;
const PASSING = new Set([TOO_BUSY, 502, 503, 504]);
const NOT_CONNECTED = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"]);
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 20_000;

type Fetch = (request: Request) => Promise<Response>;

/** `inner`, called again while that is safe, each time with a limit for how long an answer takes to begin. */
export function retrying(inner: Fetch, retries: number, timeoutMs: number): Fetch {
  return async (request) => {
    const { pathname } = new URL(request.url);
    const isSentOnce = pathname.endsWith(IMPORT);
    const isRead =
      request.method === "GET" ||
      request.headers.has("Idempotency-Key") || // done twice, it is done once
      [...READS].some((path) => pathname.endsWith(path));
    for (let tries = 1; ; tries++) {
      const isLast = isSentOnce || tries > retries;
      let waitMs = Math.min(FIRST_WAIT_MS * 2 ** (tries - 1), LONGEST_WAIT_MS) * (0.5 + Math.random() / 2);
      try {
        const response = await begun(inner, isLast ? request : request.clone(), isSentOnce ? IMPORT_MS : timeoutMs);
        const isPassing = isRead ? PASSING.has(response.status) : response.status === TOO_BUSY;
        waitMs = (retryAfterS(response) ?? waitMs / 1000) * 1000;
        if (isLast || !isPassing || waitMs > LONGEST_WAIT_MS) return response;
        await response.body?.cancel();
      } catch (error) {
        if (request.signal.aborted) throw error;
        if (isLast || (!isRead && !NOT_CONNECTED.has(codeOf(error)))) throw unreachable(request, error);
      }
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
  };
}

async function begun(inner: Fetch, request: Request, timeoutMs: number): Promise<Response> {
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
  try {
    return await inner(new Request(request, { signal: AbortSignal.any([request.signal, limit.signal]) }));
  } finally {
    clearTimeout(timer);
  }
}

function codeOf(error: unknown): string {
  const cause = (error as { cause?: { code?: string } }).cause;
  return cause?.code ?? "";
}

function unreachable(request: Request, error: unknown): Unreachable {
  const why = codeOf(error) || (error instanceof Error ? error.message : String(error));
  return new Unreachable(`${request.method} ${new URL(request.url).origin}: ${why}`, request.headers.get("X-Request-ID") ?? "", error);
}
