"""Chat requests in OpenAI's shape: what is read of them, and how text is put into one without touching the rest.

A body is never written anew. What is added is spliced into its bytes, so that all that a caller sent (unknown fields,
numbers, the order of keys, spacing) reaches the upstream as it was.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import orjson

Memory = Literal["off", "read", "on"]
Clarify = Literal["off", "auto"]

Span = tuple[int, int]

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],]', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*")


@dataclass(frozen=True)
class Message:
    """One message. `text` is all its text, "" where it has none; `is_text` says that there is nothing else in it, such
    as an image; `content` is where its content stands in the body, as a string or a list of parts."""

    role: str
    text: str
    is_text: bool
    content: Span | None


@dataclass(frozen=True)
class Chat:
    """A chat request as it was read. `body` is what the caller sent."""

    body: bytes
    fields: Mapping[str, Any]
    messages: Sequence[Message]

    @property
    def user(self) -> str | None:
        """The user that the body names."""
        user = self.fields.get("user")
        return user if isinstance(user, str) and user else None

    @property
    def model(self) -> str:
        """The model asked for, "" where none is."""
        model = self.fields.get("model")
        return model if isinstance(model, str) else ""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is wanted in pieces."""
        return self.fields.get("stream") is True

    @property
    def turn(self) -> int | None:
        """The place of the message that asks: the last one of the user's; None where there is none."""
        places = [place for place, message in enumerate(self.messages) if message.role == "user"]
        return places[-1] if places else None


@dataclass(frozen=True)
class Addition:
    """Text for a message of the user's: put before or behind what it says."""

    message: int
    text: str
    is_before: bool


def read_chat(body: bytes) -> Chat | None:
    """The request, or None where it is none that anything could be added to: no JSON, no list of messages. The upstream
    tells the caller what is wrong with it."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    fields = cast(dict[str, Any], document)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        return None
    listed = cast(list[Any], messages)
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in listed):
        return None
    spans = list(_pieces(body, _members(body, _after_space(body, 0))["messages"][0]))
    return Chat(body, fields, [_message(body, each, span) for each, span in zip(listed, spans, strict=True)])


def with_additions(chat: Chat, additions: Sequence[Addition]) -> bytes:
    """The body with text added to messages; those without a content that could hold it are left as they are.

    Without the additions the result is the body, byte for byte.
    """
    edits = [edit for addition in additions if (edit := _edit(chat, addition)) is not None]
    parts: list[bytes] = []
    at = 0
    for place, inserted in sorted(edits, key=lambda edit: edit[0]):
        parts += (chat.body[at:place], inserted)
        at = place
    return b"".join((*parts, chat.body[at:]))


def _message(body: bytes, fields: Mapping[str, Any], span: Span) -> Message:
    content = fields.get("content")
    if isinstance(content, str):
        return Message(fields["role"], content, is_text=True, content=_members(body, span[0])["content"])
    if isinstance(content, list):
        parts = cast(list[Any], content)
        texts = [text for part in parts if (text := _text_of(part)) is not None]
        is_text = len(texts) == len(parts)
        return Message(fields["role"], "\n".join(texts), is_text, _members(body, span[0])["content"])
    return Message(fields["role"], "", is_text=False, content=None)


def _text_of(part: Any) -> str | None:
    """The text of a part of a message, None where it is something else."""
    if not isinstance(part, dict) or part.get("type") != "text":
        return None
    text = cast(dict[str, Any], part).get("text")
    return text if isinstance(text, str) else None


def _edit(chat: Chat, addition: Addition) -> tuple[int, bytes] | None:
    span = chat.messages[addition.message].content
    if span is None:
        return None
    start, end = span
    if chat.body[start] == ord('"'):
        text = f"{addition.text}\n\n" if addition.is_before else f"\n\n{addition.text}"
        return (start + 1 if addition.is_before else end - 1), orjson.dumps(text)[1:-1]
    part = orjson.dumps({"type": "text", "text": addition.text})
    if next(_pieces(chat.body, start), None) is None:
        return start + 1, part
    return (start + 1, part + b",") if addition.is_before else (end - 1, b"," + part)


def _members(body: bytes, at: int) -> dict[str, Span]:
    """Where the values of the object at `at` stand, by key; of a key that is there twice, the last."""
    members: dict[str, Span] = {}
    for start, end in _pieces(body, at):
        key = _STRING.match(body, start)
        assert key is not None
        colon = _after_space(body, key.end())
        members[orjson.loads(key.group())] = (_after_space(body, colon + 1), end)
    return members


def _pieces(body: bytes, at: int) -> Iterator[Span]:
    """Where each thing between the commas of the object or list at `at` stands, without the space around it. `body`
    has to be JSON."""
    depth, start = 0, at + 1
    for token in _TOKEN.finditer(body, at):
        sign = body[token.start()]
        if sign in b"{[":
            depth += 1
        elif sign in b"}]":
            depth -= 1
        if (sign == ord(",") and depth == 1) or depth == 0:
            first, last = _after_space(body, start), token.start()
            while last > first and body[last - 1] in b" \t\r\n":
                last -= 1
            if last > first:
                yield first, last
            start = token.end()
        if depth == 0:
            return


def _after_space(body: bytes, at: int) -> int:
    space = _SPACE.match(body, at)
    assert space is not None
    return space.end()
