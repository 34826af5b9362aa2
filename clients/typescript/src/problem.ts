/** What can go wrong with a call. */

export interface FieldError {
  field: string;
  message: string;
}

/** The service refused (RFC 9457): `detail` says what to do, `errors` which fields it is about. */
export class Problem extends Error {
  override readonly name = "Problem";

  constructor(
    readonly type: string,
    readonly title: string,
    readonly status: number,
    readonly detail: string,
    readonly requestId: string,
    readonly errors: readonly FieldError[],
    /** Seconds to wait, where the service says so. */
    readonly retryAfterS: number | undefined,
  ) {
    super(detail ? `${status} ${title}: ${detail}` : `${status} ${title}`);
  }
}

/** No whole answer came; `requestId` finds the request in the service's log, if it got there. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";

  constructor(
    message: string,
    readonly requestId: string,
    cause: unknown,
  ) {
    super(message, { cause });
  }
}

/** The error for an answer with an error's status; a body that is no problem, such as a proxy's page, is left out. */
export async function problemOf(response: Response): Promise<Problem> {
  const said: Record<string, unknown> = await response.json().catch(() => ({}));
  const text = (name: string, otherwise: string) => (typeof said[name] === "string" ? said[name] : otherwise);
  return new Problem(
    text("type", "about:blank"),
    text("title", response.statusText),
    response.status,
    text("detail", ""),
    text("request_id", response.headers.get("X-Request-ID") ?? ""),
    Array.isArray(said["errors"]) ? (said["errors"] as FieldError[]) : [],
    retryAfterS(response),
  );
}

export function retryAfterS(response: Response): number | undefined {
  const said = response.headers.get("Retry-After") ?? "";
  return /^\d+$/.test(said) ? Number(said) : undefined;
}
