"""Whether an upstream's answer is what its headers say it is: JSON, or a stream of events whose data is JSON.

For the log alone: what is wrong passes all the same, as it would without a proxy. Pieces are looked at one by one after
they were passed on; a few microseconds for an event of a stream, and a whole body once, at its end.
"""

import json
from collections.abc import Iterable
from typing import Literal, NoReturn

import orjson

Garble = Literal["no_json", "no_event", "no_json_event"]
"""A body of JSON that is none; a line of a stream that is no event's; an event's data that is neither JSON nor the end
of the stream."""

MOST_LOOKED_AT = 2 * 1024 * 1024
"""Bytes of a body, of an event's data or of a line. What is longer is taken to be right: looking costs its length."""

DONE = b"[DONE]"
"""What OpenAI's streams end with."""

_FIELDS = frozenset((b"data", b"event", b"id", b"retry"))
_MARK = b"\xef\xbb\xbf"
_WITHOUT_BODY = frozenset({204, 205, 304})


class JsonCheck:
    """Looks at a body that says it is JSON, when all of it is there."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes) -> Garble | None:
        """Keep a piece for the end."""
        self._size += len(piece)
        if self._size > MOST_LOOKED_AT:
            self._pieces.clear()
        else:
            self._pieces.append(piece)
        return None

    def end(self) -> Garble | None:
        """What is wrong with the whole."""
        if self._size > MOST_LOOKED_AT or _is_json(b"".join(self._pieces)):
            return None
        return "no_json"


class EventCheck:
    """Looks at a stream that says it is one of server-sent events, line by line, wherever its pieces are cut.

    Source of what a line may be: https://html.spec.whatwg.org/multipage/server-sent-events.html.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """The pieces of a line that has not ended."""
        self._data: list[bytes] = []
        """The data of an event that has not ended."""
        self._size = 0
        self._has_return = False
        self._is_over = False

    def take(self, piece: bytes) -> Garble | None:
        """What is wrong with the lines that end in a piece: the first thing, once."""
        if self._is_over or not piece:
            return None
        if self._has_return and piece.startswith(b"\n"):
            piece = piece[1:]  # the second half of a line's end
        self._has_return = piece.endswith(b"\r")
        self._size += len(piece)
        if b"\n" not in piece and b"\r" not in piece:
            self._line.append(piece)
        else:
            lines = b"".join((*self._line, piece)).splitlines()
            self._line = [] if piece.endswith((b"\n", b"\r")) else [lines.pop()]
            for line in lines:
                if wrong := self._wrong(line):
                    return self._found(wrong)
        if self._size > MOST_LOOKED_AT:
            self._found(None)
        return None

    def end(self) -> Garble | None:
        """What is wrong with what nothing followed."""
        if self._is_over:
            return None
        wrong = self._wrong(b"".join(self._line))
        return self._found(wrong or self._wrong(b""))

    def _wrong(self, line: bytes) -> Garble | None:
        if line.startswith(b"data:"):
            self._data.append(line[5:])
        elif not line:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            self._data.clear()
            self._size = 0
            return None if not data.strip() or data.strip() == DONE or _is_json(data) else "no_json_event"
        elif not line.startswith(b":") and line.removeprefix(_MARK).partition(b":")[0] not in _FIELDS:
            return "no_event"
        return None

    def _found(self, wrong: Garble | None) -> Garble | None:
        """Nothing more is looked at."""
        self._is_over = True
        self._line.clear()
        self._data.clear()
        return wrong


Check = JsonCheck | EventCheck


def check_of(status: int, headers: Iterable[tuple[bytes, bytes]]) -> Check | None:
    """How to look at an answer with these headers, by their names in lower case; None where they say nothing that could
    be looked at."""
    named = dict(headers)
    if status in _WITHOUT_BODY or named.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        return None
    kind = named.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"text/event-stream":
        return EventCheck()
    return JsonCheck() if kind == b"application/json" or kind.endswith(b"+json") else None


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        # It refuses half a surrogate pair, which a stream cut within a character has, and a byte order mark.
        try:
            json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
    return True


def _refuse(constant: str) -> NoReturn:
    """NaN and the infinities, which Python's reader takes."""
    raise ValueError(f"{constant} is no JSON")
