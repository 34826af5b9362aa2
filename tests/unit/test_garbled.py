"""Answers that are not what they say they are: which are told of, and which only look odd."""

from collections.abc import Sequence
from random import Random

import pytest

from app.domain.garbled import MOST_LOOKED_AT, EventCheck, Garble, JsonCheck, check_of

JSON = [(b"content-type", b"application/json; charset=utf-8")]
STREAM = [(b"content-type", b"Text/Event-Stream")]


def found(check: JsonCheck | EventCheck | None, pieces: Sequence[bytes]) -> list[Garble]:
    """All that is found in a body that comes in these pieces."""
    assert check is not None
    return [wrong for wrong in (*map(check.take, pieces), check.end()) if wrong is not None]


def cut(body: bytes, random: Random) -> list[bytes]:
    """A body in pieces, cut anywhere."""
    places = sorted(random.choices(range(len(body) + 1), k=random.randrange(8)))
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


FINE_STREAMS = {
    "events": b'data: {"choices": []}\n\ndata: [1]\n\ndata: [DONE]\n\n',
    "no space": b'data:{"a":1}\n\ndata:[DONE]\n\n',
    "other ends of lines": b'data: {"a": 1}\r\n\r\ndata: {"a": 2}\r\rdata: [DONE]\r\n\r\n',
    "data on several lines": b'data: {\r\ndata:   "a": 1\r\ndata: }\r\n\r\ndata: [DONE]\r\n\r\n',
    "comments and other fields": b": keep alive\n\nevent: message\nid: 7\nretry: 5\ndata: 1\n\n:\n\ndata: [DONE]\n\n",
    "fields without a value": b"data\n\ndata:\n\nevent\n\n",
    "a byte order mark": b"\xef\xbb\xbfdata: 1\n\ndata: [DONE]\n\n",
    "no end": b"data: 1\n\ndata: [DONE]",
    "half a character": rb'data: {"content": "\ud83d"}' + b"\n\n",
    "nothing": b"",
}


@pytest.mark.parametrize("body", FINE_STREAMS.values(), ids=FINE_STREAMS)
def test_streams_that_are_streams(body: bytes) -> None:
    """However they are cut into pieces."""
    random = Random(1)
    for _ in range(300):
        assert found(check_of(200, STREAM), cut(body, random)) == []


BAD_STREAMS: dict[str, tuple[bytes, Garble]] = {
    "broken JSON": (b'data: 1\n\ndata: {"a": \n\ndata: [DONE]\n\n', "no_json_event"),
    "text": (b"event: error\ndata: something went wrong\n\n", "no_json_event"),
    "not a number": (b'data: {"a": NaN}\n\n', "no_json_event"),
    "no UTF-8": (b'data: {"a": "\xff"}\n\n', "no_json_event"),
    "two objects in one event": (b'data: {"a": 1}\ndata: {"a": 2}\n\n', "no_json_event"),
    "an event that was cut off": (b'data: {"a": 1}\n\ndata: {"a"', "no_json_event"),
    "a page": (b"<html>\n<body>Bad gateway</body>\n</html>\n", "no_event"),
    "plain JSON": (b'{"error": {"message": "overloaded"}}', "no_event"),
    "bytes": (b"data: 1\n\n\xff\xfe\x00\n\ndata: 2\n\n", "no_event"),
}


@pytest.mark.parametrize(("body", "wrong"), BAD_STREAMS.values(), ids=BAD_STREAMS)
def test_streams_that_are_none(body: bytes, wrong: Garble) -> None:
    """The first thing that is wrong, once, however they are cut into pieces."""
    random = Random(2)
    for _ in range(300):
        assert found(check_of(200, STREAM), cut(body, random)) == [wrong]
    assert found(check_of(200, STREAM), [body, body]) == [wrong]


def test_what_is_wrong_is_found_as_it_comes() -> None:
    """A stream may go on for long."""
    check = check_of(200, STREAM)
    assert check is not None
    assert [check.take(piece) for piece in (b"data: 1\n", b"\n", b"data: {\n", b"\n", b"???\n")] == [
        None,
        None,
        None,
        "no_json_event",
        None,
    ]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (b'{"choices": []}', []),
        (rb' {"a": "\udc00"} ', []),
        (b'\xef\xbb\xbf{"a": 1}', []),
        (b"", ["no_json"]),
        (b"{", ["no_json"]),
        (b"<html>", ["no_json"]),
        (b'{"a": 1}{"a": 2}', ["no_json"]),
        (b'{"a": Infinity}', ["no_json"]),
        (b'{"a": "\xff"}', ["no_json"]),
    ],
)
def test_bodies(body: bytes, wrong: list[Garble]) -> None:
    """Looked at as a whole, however they come."""
    random = Random(3)
    for _ in range(100):
        assert found(check_of(400, JSON), cut(body, random)) == wrong
    assert found(check_of(200, [(b"content-type", b"application/problem+json")]), [body]) == wrong


def test_what_is_too_long_is_taken_to_be_right() -> None:
    """And takes no memory."""
    long = b"{" * (MOST_LOOKED_AT // 2)
    assert found(check_of(200, JSON), [long] * 3) == []
    assert found(check_of(200, STREAM), [b"data: ", *[long] * 3, b"\n\n"]) == []
    assert found(check_of(200, STREAM), [b'data: "', long, b'"\n\n', *[b"data: 1\n\n"] * 3, b"?\n"]) == ["no_event"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, []),
        (200, [(b"content-type", b"text/html")]),
        (200, [*JSON, (b"content-encoding", b"gzip")]),
        (200, [*STREAM, (b"content-encoding", b"br")]),
        (204, JSON),
        (304, JSON),
    ],
)
def test_what_nothing_is_said_of(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """What says it is something else, has no body, or is compressed is not looked at."""
    assert check_of(status, headers) is None
