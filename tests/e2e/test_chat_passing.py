"""The chat proxy on real sockets, without memory: what comes out on either side is what went in on the other."""

import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from tests.e2e.running import RunningService, open_service
from tests.upstream_server import (
    HANG,
    RESET,
    STREAM_END,
    STREAM_HEAD,
    Received,
    Step,
    UpstreamServer,
    answer,
    chunk,
    stream,
)

pytestmark = pytest.mark.slow

PASSED = (
    b"user-agent: a client\r\nopenai-organization: o-1\r\nx-stainless-lang: python\r\naccept: text/event-stream\r\n"
)
KEPT = b"cookie: a=b\r\nx-forwarded-host: h\r\nx-user-id: ada\r\nx-memory: off\r\nx-clarify: off\r\n"


@pytest.fixture(scope="module")
def service(upstream: UpstreamServer) -> Iterator[RunningService]:
    """A service in front of it."""
    with open_service({"UPSTREAM_BASE_URL": upstream.base_url, "UPSTREAM_API_KEY": "sk-of-the-upstream"}) as opened:
        yield opened


@pytest.fixture(autouse=True)
def clean(upstream: UpstreamServer) -> None:
    """Nothing of an earlier test is left."""
    upstream.forget()


@dataclass(frozen=True)
class Answer:
    """What came back over a socket: its status line, its headers, the rest as it was on the wire, and whether the
    connection was broken off by the other side."""

    status: int
    headers: dict[bytes, bytes]
    raw: bytes

    @property
    def body(self) -> bytes:
        """The body, out of its chunks."""
        if self.headers.get(b"transfer-encoding") != b"chunked":
            return self.raw
        body, rest = b"", self.raw
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body, rest = body + rest[:length], rest[length + 2 :]
        return body

    @property
    def is_whole(self) -> bool:
        """Whether it has the end it announced."""
        if self.headers.get(b"transfer-encoding") == b"chunked":
            return self.raw.endswith(STREAM_END)
        return len(self.raw) == int(self.headers[b"content-length"])


def request(body: bytes, extra: bytes = b"", path: str = "/v1/chat/completions") -> bytes:
    """A request's bytes, after which the connection is closed."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return head.encode() + extra + f"content-length: {len(body)}\r\n\r\n".encode() + body


def exchange(service: RunningService, sent: bytes, timeout_s: float = 20) -> Answer:
    """What a request is answered with, read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=timeout_s) as connection:
        connection.sendall(sent)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    head, _, raw = received.partition(b"\r\n\r\n")
    line, *rest = head.split(b"\r\n")
    headers = {name: value.strip() for name, _, value in (each.partition(b":") for each in rest)}
    return Answer(int(line.split()[1]), headers, raw)


def test_200_generated_requests_pass_byte_for_byte(service: RunningService, upstream: UpstreamServer) -> None:
    """Whatever JSON is sent, and whatever is answered: bodies and statuses are those of the other side, with memory
    off, for a user who has one."""
    with service.client() as client:
        memory = {"user_id": "ada", "type": "CONSTRAINT", "content": "I never eat fish"}
        assert client.post("/v1/memories", json=memory).status_code == 200
    random = Random(8)
    for number in range(200):
        body, (status, said, is_stream) = generated_body(random), generated_answer(random)
        upstream.script = lambda _, status=status, said=said, is_stream=is_stream: (
            stream(*said) if is_stream else answer(b"".join(said), status=status)
        )
        got = exchange(service, request(body, PASSED + KEPT))
        assert upstream.received[number].body == body
        assert (got.status, got.body) == (status, b"".join(said))
        assert got.is_whole
    assert len(upstream.received) == 200


def generated_body(random: Random) -> bytes:
    """A chat request as clients of every kind write it, and now and then what is none."""
    if random.random() < 0.1:
        return random.choice([b"", b"{", b"[]", b"null", b'{"messages": 7}', b'{"messages": [{}]}', b"\xff\xfe"])
    text = Random.choice(random, ["hello", "Grüße 🚀", "tab\there", '"quoted" \\ back', "</memory>", "a" * 5000])
    image = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(bytes(300)).decode()}"},
    }
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1.0}'}}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, image]},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
        {"role": "user", "content": text, "name": "ada"},
    ]
    optional: dict[str, Any] = {
        "temperature": random.choice([0, 0.0, 1e-7, 1]),
        "n": random.randrange(1, 5),
        "seed": random.getrandbits(63),
        "stop": ["\n", "###"],
        "logprobs": True,
        "top_logprobs": 5,
        "stream": random.choice([True, False]),
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "user": "ada",
        "metadata": {"a": None},
        "x_unknown": [1, {"deep": {"er": [True, None, 1e300]}}],
        "logit_bias": {"50256": -100},
    }
    chosen = random.sample(sorted(optional), random.randrange(len(optional)))
    wanted = messages[random.randrange(2) :] if random.random() < 0.7 else messages[:2]
    document = {"model": "m", "messages": wanted, **{name: optional[name] for name in chosen}}
    indent, is_ascii = random.choice([None, None, 1, 4]), random.choice([True, False])
    body = json.dumps(document, indent=indent, ensure_ascii=is_ascii)
    if random.random() < 0.2:
        body = body[:-1] + ', "big": 123456789012345678901234567890.10, "model": "m"}'  # a key twice, a long number
    return body.encode()


def generated_answer(random: Random) -> tuple[int, list[bytes], bool]:
    """A status, pieces of a body that is any bytes at all, and whether they come in chunks."""
    pieces = [
        random.choice(
            [b'data: {"choices":[]}\n\n', random.randbytes(random.randrange(1, 400)), "data: ü\r\n\r\n".encode()]
        )
        for _ in range(random.randrange(1, 12))
    ]
    if random.random() < 0.4:
        return 200, pieces, True
    return random.choice([200, 200, 400, 401, 404, 418, 422, 429, 500, 503, 529]), pieces, False


def test_headers_pass_as_documented(service: RunningService, upstream: UpstreamServer) -> None:
    """The caller's own pass but for those that concern the service or one connection; the upstream's likewise."""
    headers = ["retry-after: 7", "x-ratelimit-limit-requests: 9", "openai-model: m", "set-cookie: s=1"]
    headers += ["location: http://elsewhere/", "x-request-id: theirs", "connection: keep-alive", "server: other"]
    upstream.script = lambda _: answer(b"{}", status=429, headers=headers)

    got = exchange(service, request(b'{"messages": []}', PASSED + KEPT + b"x-request-id: mine\r\n"))

    (received,) = upstream.received
    seen = {name.lower(): value for name, value in received.headers}
    assert seen == {
        b"host": f"127.0.0.1:{upstream.port}".encode(),
        b"user-agent": b"a client",
        b"openai-organization": b"o-1",
        b"x-stainless-lang": b"python",
        b"accept": b"text/event-stream",
        b"accept-encoding": b"identity",
        b"content-type": b"application/json",
        b"content-length": b"16",
        b"authorization": b"Bearer sk-of-the-upstream",
        b"x-request-id": b"mine",
    }
    own = {b"date", b"connection", b"x-request-id", b"content-type", b"content-length"}
    assert set(got.headers) - own == {b"retry-after", b"x-ratelimit-limit-requests", b"openai-model"}
    assert got.headers[b"x-request-id"] == b"mine"


def test_a_compressed_answer_passes_compressed(service: RunningService, upstream: UpstreamServer) -> None:
    """The caller's wish for an encoding reaches the upstream, and what it sends is not unpacked on the way."""
    import gzip

    packed = gzip.compress(b'{"choices": []}')
    upstream.script = lambda _: answer(packed, headers=["content-encoding: gzip"])

    got = exchange(service, request(b'{"messages": []}', b"accept-encoding: gzip, br\r\n"))

    assert upstream.received[0].header("accept-encoding") == b"gzip, br"
    assert (got.headers[b"content-encoding"], got.body) == (b"gzip", packed)


def test_models_and_queries_pass(service: RunningService, upstream: UpstreamServer) -> None:
    """`GET /v1/models` is the upstream's list; a query goes along."""
    listed = b'{"object": "list", "data": [ {"id": "tiny"} ]}'
    upstream.script = lambda _: answer(listed)

    with service.client() as client:
        assert client.get("/v1/models").content == listed
        assert client.post("/v1/chat/completions?api-version=1&a=%20b", content=b"{}").status_code == 200

    assert [each.line for each in upstream.received] == [
        b"GET /v1/models HTTP/1.1",
        b"POST /v1/chat/completions?api-version=1&a=%20b HTTP/1.1",
    ]


BROKEN: dict[str, Sequence[Step]] = {
    "an end in the middle of chunks": [STREAM_HEAD + chunk(b"data: one\n\n")],
    "a reset in the middle of chunks": [STREAM_HEAD + chunk(b"data: one\n\n"), 0.05, RESET],
    "an end before the announced length": [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ndata: one\n\n"],
    "no chunks where chunks were announced": [STREAM_HEAD + chunk(b"data: one\n\n"), 0.05, b"this is not a size\r\n"],
}


@pytest.mark.parametrize("steps", BROKEN.values(), ids=BROKEN)
def test_an_upstream_that_breaks_off(service: RunningService, upstream: UpstreamServer, steps: Sequence[Step]) -> None:
    """The client gets what came, and a connection that ends where no end was announced; the log says why."""
    before = len(service.log_events("upstream_failed"))
    upstream.script = lambda _: [*steps, 0.0]  # two steps or more: the connection is closed behind them

    got = exchange(service, request(b'{"messages": []}'))

    assert got.status == 200
    assert b"data: one\n\n" in got.raw
    assert not got.is_whole
    (event,) = service.log_events("upstream_failed")[before:]
    assert event["has_begun"] is True
    assert event["cause"] in {"broken_answer", "reset"}


GARBAGE: dict[str, tuple[list[bytes], str | None, str]] = {
    "a stream": ([b"data: {broken\n", b"\xff\xfe\x00", b"event: ???\n\n\n", b"data: [DONE]\n\n"], None, "no_event"),
    "events that are no JSON": ([b"data: {}\n\ndata: {bro", b"ken\n\n", b"data: [DONE]\n\n"], None, "no_json_event"),
    "a page instead of a stream": ([b"<html>broken</html>"], "text/event-stream", "no_event"),
    "half a document": ([b'{"choices": [{"broken'], "application/json", "no_json"),
}
"""Pieces, what they say they are where they do not come in chunks, and what is wrong."""


@pytest.mark.parametrize(("pieces", "kind", "cause"), GARBAGE.values(), ids=GARBAGE)
def test_garbage_passes_and_is_told_of(
    service: RunningService, upstream: UpstreamServer, pieces: list[bytes], kind: str | None, cause: str
) -> None:
    """What is no event, no JSON and no UTF-8 is the client's to judge, as without a proxy; the log tells what is wrong,
    once and without a word of it."""
    before = len(service.log_events("upstream_garbled"))
    upstream.script = lambda _: stream(*pieces) if kind is None else answer(b"".join(pieces), kind=kind)

    got = exchange(service, request(b'{"messages": []}'))

    assert (got.body, got.is_whole) == (b"".join(pieces), True)
    wait_for(lambda: len(service.log_events("upstream_garbled")) > before)
    (event,) = service.log_events("upstream_garbled")[before:]
    assert (event["cause"], event["status"]) == (cause, 200)
    assert "broken" not in json.dumps(event)


def test_an_answer_as_it_should_be_is_not_told_of(service: RunningService, upstream: UpstreamServer) -> None:
    """Whole or as a stream, wherever it is cut: the next event is that of the next garbage."""
    before = len(service.log_events("upstream_garbled"))
    events = b': hello\n\ndata: {"choices": [{"delta": {"content": "\xc3\xbc"}}]}\r\n\r\ndata: [DONE]\n\n'
    for steps in (stream(*(events[at : at + 1] for at in range(len(events)))), answer(b'{"choices": []}')):
        upstream.script = lambda _, steps=steps: steps
        assert exchange(service, request(b'{"messages": []}')).is_whole
    upstream.script = lambda _: answer(b"garbage", status=201)
    exchange(service, request(b'{"messages": []}'))
    wait_for(lambda: len(service.log_events("upstream_garbled")) > before)
    assert [event["status"] for event in service.log_events("upstream_garbled")[before:]] == [201]


UNANSWERED: dict[str, Callable[[Received], Sequence[Step]]] = {
    "hangs up": lambda _: [],
    "resets": lambda _: [RESET],
    "talks no HTTP": lambda _: [b"\x00\x01\x02 nonsense\r\n\r\n", 0.0],
}


@pytest.mark.parametrize("script", UNANSWERED.values(), ids=UNANSWERED)
def test_an_upstream_without_an_answer_is_a_502(
    service: RunningService, upstream: UpstreamServer, script: Callable[[Received], Sequence[Step]]
) -> None:
    """Where there is nothing to pass on, a problem says so, and the log why."""
    before = len(service.log_events("upstream_failed"))
    upstream.script = script

    got = exchange(service, request(b'{"messages": []}'))

    assert got.status == 502
    assert json.loads(got.body)["type"] == "urn:embed-service:problem:upstream-unavailable"
    (event,) = service.log_events("upstream_failed")[before:]
    assert event["has_begun"] is False


def test_a_client_that_leaves_stops_the_upstream(service: RunningService, upstream: UpstreamServer) -> None:
    """Within a second, in the middle of a stream, before its first byte, and before the answer has begun."""
    endless: list[Step] = [STREAM_HEAD]
    for _ in range(500):
        endless += [chunk(b"data: on and on\n\n"), 0.02]
    scripts: list[list[Step]] = [endless, [STREAM_HEAD, HANG], [HANG]]
    for number, script in enumerate(scripts):
        upstream.script = lambda _, script=script: script
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(request(b'{"messages": []}'))
            wait_for(lambda number=number: len(upstream.received) > number)
            if number < 2:
                assert connection.recv(65536)
            time.sleep(0.1)
            left_at = time.monotonic()
        wait_for(lambda number=number: len(upstream.gone_at) > number)
        assert upstream.gone_at[number] - left_at < 1.0


def test_an_answer_that_hangs_is_waited_for(service: RunningService, upstream: UpstreamServer) -> None:
    """Silence is passed on as silence: what comes after it arrives."""
    upstream.script = lambda _: [STREAM_HEAD + chunk(b"one"), 2.0, chunk(b"two"), STREAM_END]
    started = time.monotonic()

    got = exchange(service, request(b'{"messages": []}'))

    assert (got.body, got.is_whole) == (b"onetwo", True)
    assert time.monotonic() - started > 1.9


def test_what_a_header_may_not_say(service: RunningService, upstream: UpstreamServer) -> None:
    """A mode that there is not, and a user id that is none, are refused before anything is sent on."""
    for header in (b"x-memory: maybe\r\n", b"x-clarify: always\r\n", b"x-user-id: " + b"a" * 257 + b"\r\n"):
        got = exchange(service, request(b'{"messages": []}', header))
        assert got.status == 422, header
    assert exchange(service, request(b'{"messages": [], "user": "a\\u0001"}')).status in {200, 422}
    assert [each for each in upstream.received if b"u0001" not in each.body] == []


def wait_for(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
