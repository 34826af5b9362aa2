"""What people bring along from other assistants: mem0's memories, and exports of ChatGPT and Claude. Pure.

A file holds items: one memory of mem0, one conversation of the others. An item is read on its own, so that one that
cannot be read is named and the others are taken.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, cast
from uuid import UUID, uuid5

from app.domain.errors import InvalidInput
from app.domain.extraction import statements_in
from app.domain.memory import Draft, MemoryType

MAX_CONTENT = 16_000
"""Characters of one memory; what is longer is cut."""

_NAMESPACE = UUID("8f1f6d0e-0a0b-4c62-9f0e-5a3b6c1d2e4f")


class Format(StrEnum):
    """Whose file it is."""

    MEM0 = "mem0"
    CHATGPT = "chatgpt"
    CLAUDE = "claude"


@dataclass(frozen=True)
class Message:
    """What somebody said in a conversation; `key` is its id there. `role` is `user`, `assistant` or another."""

    key: str
    role: str
    content: str
    said_at: datetime | None


@dataclass(frozen=True)
class Brought:
    """A memory to be, with an id that is the same whenever the same file is read for the same user."""

    memory_id: UUID
    draft: Draft


@dataclass(frozen=True)
class Read:
    """What an item gave, and what of it was left out, by reason."""

    brought: Sequence[Brought] = ()
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


def read_item(form: Format, user_id: str, item: Any, now: datetime) -> Read:
    """The memories in an item; moments after `now` count as now. Raises InvalidInput saying what is wrong with it."""
    if form is Format.MEM0:
        return _read_memory(user_id, item, now)
    messages = _PARSERS[form](_mapping(item, "the conversation"))
    return remember(form, user_id, messages, now)


def remember(form: Format, user_id: str, messages: Iterator[Message], now: datetime) -> Read:
    """Messages as memories: each of the user's own is a HISTORY, true from when it was said."""
    brought: list[Brought] = []
    left_out: Counter[str] = Counter()
    for message in messages:
        if message.role != "user":
            left_out["not the user's"] += 1
        elif not (content := _clean(message.content)):
            left_out["without text"] += 1
        else:
            key = message.key or _hash(content, message.said_at)
            draft = _draft(MemoryType.HISTORY, content, form, message.said_at, now)
            brought.append(Brought(_id_of(form, user_id, key), draft))
    return Read(brought, left_out)


def _read_memory(user_id: str, item: Any, now: datetime) -> Read:
    """One of mem0's, as `get_all()` and its platform's export give them."""
    given = _mapping(item, "the memory")
    content = _clean(_text(given.get("memory"), "memory"))
    if given.get("role") == "assistant":
        return Read(left_out={"not the user's": 1})
    if not content:
        return Read(left_out={"without text": 1})
    stated = statements_in(content, Format.MEM0)
    kind = stated[0].type if stated else MemoryType.PROFILE
    said_at = _moment(given.get("created_at"))
    key = given.get("id") if isinstance(given.get("id"), str) else _hash(content, said_at)
    draft = _draft(kind, content, Format.MEM0, said_at, now)
    return Read([Brought(_id_of(Format.MEM0, user_id, str(key)), draft)])


def _chatgpt_messages(conversation: Mapping[str, Any]) -> Iterator[Message]:
    """The branch that was shown last, from its beginning: answers that were made anew, and questions that were put
    another way, are branches of their own."""
    nodes = _mapping(conversation.get("mapping"), "mapping")
    for node in reversed(_branch(nodes, conversation.get("current_node"))):
        message = node.get("message")
        if not isinstance(message, dict):
            continue  # the root has none
        said = cast("dict[str, Any]", message)
        is_hidden = _optional(said.get("metadata")).get("is_visually_hidden_from_conversation") is True
        role = "hidden" if is_hidden else str(_optional(said.get("author")).get("role"))
        yield Message(str(said.get("id") or ""), role, _parts(said.get("content")), _moment(said.get("create_time")))


def _branch(nodes: Mapping[str, Any], last: Any) -> list[Mapping[str, Any]]:
    """The nodes from the last one up to the root. Without one, from the node that was written last."""
    if not isinstance(last, str) or last not in nodes:
        last = max(nodes, key=lambda name: _seconds(_optional(nodes[name])), default=None)
    branch: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    while isinstance(last, str) and last in nodes and last not in seen:
        seen.add(last)
        node = _optional(nodes[last])
        branch.append(node)
        last = node.get("parent")
    return branch


def _seconds(node: Mapping[str, Any]) -> float:
    given = _optional(node.get("message")).get("create_time")
    return float(given) if isinstance(given, int | float) else 0.0


def _parts(content: Any) -> str:
    """The texts of a message; pictures and files are left out."""
    held = _optional(content)
    if held.get("content_type") not in {"text", "multimodal_text"}:
        return ""
    parts = held.get("parts")
    return "\n".join(part for part in _sequence(parts) if isinstance(part, str))


def _claude_messages(conversation: Mapping[str, Any]) -> Iterator[Message]:
    """All messages, in order."""
    messages = conversation.get("chat_messages")
    if not isinstance(messages, list):
        raise InvalidInput("chat_messages is missing")
    for each in cast("list[Any]", messages):
        said = _optional(each)
        blocks = [_optional(block) for block in _sequence(said.get("content"))]
        texts = [block.get("text") for block in blocks if block.get("type") == "text"] or [said.get("text")]
        content = "\n".join(text for text in texts if isinstance(text, str))
        role = "user" if said.get("sender") == "human" else str(said.get("sender"))
        yield Message(str(said.get("uuid") or ""), role, content, _moment(said.get("created_at")))


_PARSERS: Mapping[Format, Callable[[Mapping[str, Any]], Iterator[Message]]] = {
    Format.CHATGPT: _chatgpt_messages,
    Format.CLAUDE: _claude_messages,
}


def _draft(kind: MemoryType, content: str, form: Format, said_at: datetime | None, now: datetime) -> Draft:
    return Draft(kind, content, source=form.value, valid_from=min(said_at or now, now))


def _id_of(form: Format, user_id: str, key: str) -> UUID:
    return uuid5(_NAMESPACE, "\n".join((form, user_id, key)).encode("utf-8", "surrogatepass").hex())


def _hash(content: str, said_at: datetime | None) -> str:
    return sha256(f"{said_at}\n{content}".encode()).hexdigest()


def _clean(text: str) -> str:
    """Text that can be kept: no NUL, no half characters, not too long."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode().strip()[:MAX_CONTENT].strip()


def _moment(given: Any) -> datetime | None:
    """Seconds since 1970, or RFC 3339; None for what is neither, or before 1971 or after 9000."""
    try:
        if isinstance(given, str):
            moment = datetime.fromisoformat(given)
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        else:
            moment = datetime.fromtimestamp(given, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return moment if 1971 <= moment.year <= 9000 else None


def _mapping(given: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise InvalidInput(f"{name} is missing" if given is None else f"{name} is no object")
    return cast("Mapping[str, Any]", given)


def _optional(given: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", given) if isinstance(given, dict) else {}


def _sequence(given: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", given) if isinstance(given, list) else ()


def _text(given: Any, name: str) -> str:
    if not isinstance(given, str):
        raise InvalidInput(f"{name} is missing" if given is None else f"{name} is no text")
    return given
