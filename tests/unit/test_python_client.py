"""The Python client on a transport of the test's own: retries, problems, streams, strange answers."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed_service_client import (
    Conflict,
    EmbedService,
    FieldError,
    InvalidInput,
    NotFound,
    Overloaded,
    Problem,
    Retries,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from embed_service_client.json_values import decode

INFO = {
    "name": "Embed Service",
    "version": "1",
    "slm": "local",
    "model": "m",
    "dim": 3,
    "space": "s",
    "backend": "onnx",
    "normalised": True,
}
ADDED = {"ids": [], "deduplicated": 0, "superseded": []}
DRAFT: Any = {"type": "GOAL", "content": "run a marathon"}


class Answers:
    """A transport that gives one answer after the other and keeps what it was sent; an exception is raised."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.left = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept; nobody really sleeps."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def client_of(answers: Answers, **options: Any) -> EmbedService:
    return EmbedService("http://service", transport=httpx2.MockTransport(answers), **options)


def refusal(status: int, headers: dict[str, str] | None = None) -> httpx2.Response:
    return httpx2.Response(status, json={"type": "urn:x", "title": "No", "detail": "why"}, headers=headers)


@pytest.mark.parametrize("failure", [429, 502, 503, 504, "reset", "refused", "timeout"])
def test_a_read_is_made_again_after_what_passes(failure: int | str, waits: list[float]) -> None:
    """Whatever a moment may mend: the same request id, and a pause before."""
    answers = Answers(failed(failure), httpx2.Response(200, json=INFO))

    assert client_of(answers).info().name == "Embed Service"
    assert len({request.headers["X-Request-ID"] for request in answers.requests}) == 1
    assert len(answers.requests) == 2
    assert len(waits) == 1
    assert 0.25 <= waits[0] <= 0.5


@pytest.mark.parametrize(
    ("failure", "times"), [(429, 2), ("refused", 2), (502, 1), (503, 1), (504, 1), ("reset", 1), ("timeout", 1)]
)
def test_a_write_is_made_again_only_where_nothing_was_begun(failure: int | str, times: int, waits: list[float]) -> None:
    """A broken connection or a 503 may come after the work: the caller decides then."""
    answers = Answers(failed(failure), httpx2.Response(200, json=ADDED))
    client = client_of(answers)

    if times == 2:
        assert client.add_memories("ada", [DRAFT]).deduplicated == 0
    else:
        with pytest.raises((Unavailable, Unreachable)):
            client.add_memories("ada", [DRAFT])
    assert len(answers.requests) == times


def failed(failure: int | str) -> httpx2.Response | Exception:
    match failure:
        case int():
            return refusal(failure)
        case "reset":
            return httpx2.ReadError("reset")
        case "timeout":
            return httpx2.ReadTimeout("slow")
        case _:
            return httpx2.ConnectError("refused")


def test_the_service_says_when_to_come_back(waits: list[float]) -> None:
    """Retry-After is the wait, and one that is too long is the caller's."""
    answers = Answers(refusal(503, {"Retry-After": "3"}), httpx2.Response(200, json=INFO))
    client_of(answers).info()
    assert waits == [3.0]

    with pytest.raises(Unavailable) as refused:
        client_of(Answers(refusal(503, {"Retry-After": "3600"}))).info()
    assert refused.value.retry_after_s == 3600.0
    assert waits == [3.0]


def test_tries_are_counted(waits: list[float]) -> None:
    """The last refusal is raised; its own words are kept."""
    answers = Answers(*(refusal(429) for _ in range(4)))
    with pytest.raises(Overloaded, match="why"):
        client_of(answers, retries=Retries(count=3, first_wait_s=1.0, longest_wait_s=2.0)).info()
    assert len(answers.requests) == 4
    assert [0.5, 1.0, 1.0] <= waits <= [1.0, 2.0, 2.0]


@given(tries=st.integers(1, 50), chance=st.floats(0, 1), is_read=st.booleans(), status=st.integers(400, 599))
def test_waits_are_within_their_bounds(tries: int, chance: float, is_read: bool, status: int) -> None:
    """None, or half to all of a doubling time that ends at the longest wait."""
    wait_s = Retries(count=10).after_answer(status, None, tries=tries, is_read=is_read, chance=chance)
    if wait_s is not None:
        whole = min(0.5 * 2 ** (tries - 1), 20.0)
        assert whole / 2 <= wait_s <= whole
        assert tries <= 10
        assert status == 429 or (is_read and status in {502, 503, 504})


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (409, Conflict), (422, InvalidInput), (500, Problem)])
def test_problems_are_exceptions_with_all_they_say(status: int, kind: type[Problem]) -> None:
    """Everything of the answer is there."""
    body = {
        "type": "urn:embed-service:problem:some",
        "title": "Some",
        "status": status,
        "detail": "do that",
        "request_id": "r1",
        "errors": [{"field": "user_id", "message": "too long"}],
    }
    with pytest.raises(Problem) as refused:
        client_of(Answers(httpx2.Response(status, json=body))).get_persona("ada")
    problem = refused.value
    assert type(problem) is kind
    assert (problem.type, problem.title, problem.status) == ("urn:embed-service:problem:some", "Some", status)
    assert (problem.detail, problem.request_id) == ("do that", "r1")
    assert problem.errors == (FieldError("user_id", "too long"),)
    assert str(problem) == f"{status} Some: do that"


def test_a_page_of_a_proxy_is_a_problem_too() -> None:
    """Without words of the service, with the id that was sent."""
    answers = Answers(httpx2.Response(500, text="<h1>Bad</h1>"))
    with pytest.raises(Problem, match="500 Internal Server Error") as refused:
        client_of(answers).info()
    assert refused.value.request_id == answers.requests[0].headers["X-Request-ID"]


def test_nobody_there_says_where_and_what() -> None:
    """The address, without the path, which may name a user; the id for the service's log."""
    answers = Answers(httpx2.ConnectError("refused"))
    with pytest.raises(Unreachable, match=r"^GET http://service: refused$") as failure:
        client_of(answers, retries=Retries(count=0)).get_persona("ada")
    assert failure.value.request_id == answers.requests[0].headers["X-Request-ID"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"name": 1}'])
def test_another_server_is_found_out(body: bytes) -> None:
    """What is no answer of the document is an error that says so."""
    with pytest.raises(UnexpectedAnswer):
        client_of(Answers(httpx2.Response(200, content=body))).info()


def test_a_newer_service_may_say_more() -> None:
    """Fields that the client does not know are left out."""
    assert client_of(Answers(httpx2.Response(200, json={**INFO, "colour": "blue"}))).info().dim == 3


def test_readiness_is_an_answer_even_when_not_ready() -> None:
    """503 with the state of each part is what was asked for, and nothing to try again."""
    state = {"status": "unready", "parts": {"database": "gone"}}
    answers = Answers(httpx2.Response(503, json=state))
    assert client_of(answers).readyz().parts == {"database": "gone"}


class Stream(httpx2.SyncByteStream):
    """An answer's body in pieces; it may break off."""

    def __init__(self, pieces: Iterator[bytes], breaks: bool = False) -> None:
        self.pieces, self.breaks = pieces, breaks

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.breaks:
            raise httpx2.ReadError("broke off")


@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1), max_size=9),
    size=st.integers(1, 7),
)
def test_an_export_comes_line_by_line_however_it_was_cut(lines: list[str], size: int) -> None:
    """No piece is lost or doubled, and only a line feed ends a line: U+2028 may be in one."""
    whole = "".join(line + "\n" for line in lines).encode()
    pieces = (whole[start : start + size] for start in range(0, len(whole), size))
    answers = Answers(httpx2.Response(200, stream=Stream(pieces)))
    assert list(client_of(answers).export_user("ada")) == [(line + "\n").encode() for line in lines]


def test_an_export_that_breaks_off_is_no_whole_one() -> None:
    """The lines so far came, then the error."""
    answers = Answers(httpx2.Response(200, stream=Stream(iter([b"{}\n{"]), breaks=True)))
    lines = client_of(answers).export_user("ada")
    assert next(lines) == b"{}\n"
    with pytest.raises(Unreachable, match="broke off"):
        next(lines)


def test_large_exports_and_imports_take_little_memory(tmp_path: Path) -> None:
    """64 MB each way in less than 4 MB."""
    line = b'{"table": "memories", "content": "' + b"x" * 1000 + b'"}\n'
    count = 64_000
    file = tmp_path / "user.ndjson"
    received: list[int] = []

    class Taking(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            assert isinstance(request.stream, httpx2.SyncByteStream)
            received.append(sum(len(piece) for piece in request.stream))
            return httpx2.Response(200, json={"imported": {"memories": count}})

    tracemalloc.start()
    try:
        answers = Answers(httpx2.Response(200, stream=Stream(line for _ in range(count))))
        with file.open("wb") as out:
            out.writelines(client_of(answers).export_user("ada"))
        client = EmbedService("http://service", transport=Taking())
        assert client.import_user(file).imported == {"memories": count}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == [file.stat().st_size] == [count * len(line)]
    assert peak < 4_000_000


def test_an_import_is_sent_once() -> None:
    """Its pieces cannot be had again."""
    answers = Answers(httpx2.ConnectError("refused"))
    with pytest.raises(Unreachable):
        client_of(answers).import_user([b"{}\n"])
    assert len(answers.requests) == 1


def test_moments_need_a_time_zone() -> None:
    """A naive one is refused here, before it means another moment there."""
    answers = Answers(httpx2.Response(200, json=ADDED))
    client = client_of(answers)
    with pytest.raises(TypeError, match="time zone"):
        client.add_memories("ada", [{**DRAFT, "valid_from": datetime(2026, 1, 31)}])
    client.add_memories("ada", [{**DRAFT, "valid_from": datetime(2026, 1, 31, tzinfo=UTC)}])
    assert json.loads(answers.requests[0].content)["memories"][0]["valid_from"] == "2026-01-31T00:00:00+00:00"


@dataclass(frozen=True)
class Shape:
    """One of each kind of field."""

    whole: int
    number: float
    texts: list[str]
    either: list[float] | str
    perhaps: datetime | None = None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["whole", "number", "texts", "either", "perhaps"]), inner, max_size=5)
        ),
        max_leaves=20,
    )
)
def test_any_json_is_an_answer_or_an_unexpected_one(value: Any) -> None:
    """Decoding raises nothing else, and what it lets pass has the fields' types."""
    try:
        shape = decode(Shape, value)
    except UnexpectedAnswer:
        return
    assert type(shape.whole) is int
    assert type(shape.number) is float
    assert isinstance(shape.either, list | str)
