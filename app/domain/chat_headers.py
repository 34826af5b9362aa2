"""Which headers pass between a caller and the upstream, both ways; all others stay where they are."""

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

TO_UPSTREAM = frozenset(
    """accept accept-encoding accept-language baggage content-encoding content-type http-referer idempotency-key
    traceparent tracestate user-agent x-request-id x-title""".split()
)
TO_UPSTREAM_PREFIXES = ("openai-", "x-stainless-")
"""Not `authorization`: the caller's key is the service's own, and the upstream gets the one of the settings. Neither
who the user is, cookies, nor anything about the caller's network."""

TO_CALLER = frozenset(
    """cache-control content-encoding content-language content-length content-type retry-after retry-after-ms
    x-accel-buffering x-should-retry""".split()
)
TO_CALLER_PREFIXES = ("openai-", "x-ratelimit-")
"""Not `location`, which would lead a client past the service with its key; nor cookies, nor what concerns one
connection alone. `x-request-id` is the service's own in either direction."""


def to_upstream(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> Headers:
    """What of a caller's headers the upstream gets. Without `accept-encoding` it is asked for none, as a client that
    sends none wants it."""
    passed = _chosen(headers, TO_UPSTREAM - {"x-request-id"}, TO_UPSTREAM_PREFIXES)
    if not any(name == b"accept-encoding" for name, _ in passed):
        passed.append((b"accept-encoding", b"identity"))
    return [*passed, (b"x-request-id", request_id.encode())]


def to_caller(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What of the upstream's headers the caller gets."""
    return _chosen(headers, TO_CALLER, TO_CALLER_PREFIXES)


def _chosen(headers: Iterable[tuple[bytes, bytes]], names: frozenset[str], prefixes: tuple[str, ...]) -> Headers:
    lowered = ((name.lower(), value) for name, value in headers)
    return [
        (name, value)
        for name, value in lowered
        if name.decode("latin-1") in names or name.decode("latin-1").startswith(prefixes)
    ]
