"""Rows of a file of conversations, in whichever of the usual shapes, as prompt and completion."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

Message = Mapping[str, str]

ASKED = ("prompt", "instruction", "question")
ANSWERED = ("completion", "output", "response", "answer")
TALKS = ("messages", "conversations")

MAX_LABEL = 80
"""Characters of a label that are kept."""

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
_USER_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Conversation:
    """What is asked and what is answered. `label` and `user` (a key of the service's own datasets) are empty where the
    row has none."""

    prompt: Sequence[Message]
    completion: Sequence[Message]
    label: str = ""
    user: str = ""

    @property
    def said(self) -> list[tuple[str, str]]:
        """The last question and the answer, with the parts they play: what makes it the same as another one."""
        return [(one["role"], one["content"]) for one in (*self.prompt[-1:], *self.completion)]

    @property
    def known(self) -> list[tuple[str, str]]:
        """What went before."""
        return [(one["role"], one["content"]) for one in self.prompt[:-1]]


def conversation_of(row: object) -> Conversation | None:
    """A row as a conversation; None where it is none.

    Shapes: `prompt` and `completion`, each a text or a list of messages; `instruction` (with `input`, `system`) and
    `output`; `question` and `answer`; `messages` or `conversations` whose last one is the assistant's. A message is
    `{"role": …, "content": …}`, or `{"from": …, "value": …}`. A text of blanks only is none.
    """
    if not isinstance(row, dict):
        return None
    fields = cast("dict[str, Any]", row)
    talk = next((fields[name] for name in TALKS if name in fields), None)
    if talk is not None:
        messages = _messages(talk, "user")
        prompt, completion = messages[:-1], messages[-1:]
    else:
        prompt = _messages(next((fields[name] for name in ASKED if name in fields), None), "user")
        completion = _messages(next((fields[name] for name in ANSWERED if name in fields), None), "assistant")
        prompt = _with_beside(prompt, fields)
    if not prompt or not completion or any(one["role"] != "assistant" for one in completion):
        return None
    return Conversation(prompt, completion, *_origin(fields))


def _messages(value: object, role: str) -> list[Message]:
    """A text or a list of messages as messages; empty where any of it is neither."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    found: list[Message] = []
    for each in cast("list[object]", value) if isinstance(value, list) else []:
        message = _message(each)
        if message is None:
            return []
        found.append(message)
    return found


def _message(value: object) -> Message | None:
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    said, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
    role = _ROLES.get(said) if isinstance(said, str) else None
    if role is None or not isinstance(content, str) or not content.strip():
        return None
    return {"role": role, "content": content}


def _with_beside(prompt: list[Message], fields: Mapping[str, Any]) -> list[Message]:
    """The prompt with the `input` that its instruction is about, and the `system` message before it."""
    about, system = fields.get("input"), fields.get("system")
    if prompt and isinstance(about, str) and about.strip():
        prompt = [*prompt[:-1], {**prompt[-1], "content": f"{prompt[-1]['content']}\n\n{about}"}]
    if prompt and isinstance(system, str) and system.strip():
        prompt = [{"role": "system", "content": system}, *prompt]
    return prompt


def _origin(fields: Mapping[str, Any]) -> tuple[str, str]:
    """(label, user): a row of the service's own datasets has both in its `meta`."""
    meta = fields.get("meta")
    inner = cast("dict[str, object]", meta) if isinstance(meta, dict) else {}
    label, user = fields.get("label", inner.get("label")), inner.get("user")
    is_key = isinstance(user, str) and _USER_KEY.fullmatch(user) is not None
    return "" if label is None else str(label)[:MAX_LABEL], str(user) if is_key else ""
