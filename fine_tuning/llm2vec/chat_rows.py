"""Chat rows as files have them, `prompt` and `completion` a line of JSON, made into what a training script reads.

Either is a text (the user's, the assistant's) or a list of messages with `role` and `content`; other keys are left
out. `embed-service train datasets` writes such files.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fine_tuning.embedding.errors import BadRows, FineTuningError

Messages = list[dict[str, str]]

_ROLES = {"prompt": "user", "completion": "assistant"}
_SHOWN = 10


def write_chat_rows(source: Path, target: Path, *, skips_bad_rows: bool) -> dict[str, int]:
    """Write the rows of `source` to `target`, the same row once; how many were read, bad, double and written. Raises
    BadRows for rows that cannot be used, unless they are to be left out, and FineTuningError."""
    counts, bad, seen = {"read": 0, "bad": 0, "double": 0, "written": 0}, list[str](), set[bytes]()
    try:
        with source.open("rb") as lines, target.open("w", encoding="utf8") as out:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                counts["read"] += 1
                row = _row(line)
                if isinstance(row, str):
                    counts["bad"] += 1
                    bad.append(f"{source}:{number}: {row}")
                elif (text := json.dumps(row, ensure_ascii=False, sort_keys=True).encode()) in seen:
                    counts["double"] += 1
                else:
                    seen.add(text)
                    out.write(json.dumps(row) + "\n")
                    counts["written"] += 1
    except OSError as error:
        raise FineTuningError(f"{source} cannot be read: {error.strerror}.") from None
    if bad and not skips_bad_rows:
        more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        found = f"{source} has {len(bad)} bad rows of {counts['read']}"
        raise BadRows("\n".join([*bad[:_SHOWN], *more, f"{found}; mend them, or leave them out with --skip-bad-rows."]))
    if not counts["written"]:
        raise FineTuningError(f"{source} holds no row to use.")
    return counts


def read_chat_rows(file: Path, most: int) -> list[dict[str, Messages]]:
    """At most so many rows of a file that `write_chat_rows` wrote, spread over all of them."""
    rows = [json.loads(line) for line in file.read_text("utf8").splitlines()]
    return rows[:: -(-len(rows) // most)]


def _row(line: bytes) -> dict[str, Messages] | str:
    """The row, or why it is none."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return "this is not JSON"
    if not isinstance(found, dict):
        return "this is not a JSON object"
    row: dict[str, Messages] = {}
    for name, role in _ROLES.items():
        messages = _messages(cast("Mapping[str, Any]", found).get(name), role)
        if isinstance(messages, str):
            return f"{name} {messages}"
        row[name] = messages
    return row


def _messages(value: Any, role: str) -> Messages | str:
    """The messages of a prompt or a completion, or what is wrong with them."""
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        return "is neither a text nor a list of messages"
    messages: Messages = []
    for each in cast("list[Any]", value):
        said = cast("Mapping[str, Any]", each) if isinstance(each, dict) else {}
        who, what = said.get("role"), said.get("content")
        if not isinstance(who, str) or not isinstance(what, str) or not what.strip():
            return "has a message without a role or a content"
        messages.append({"role": who, "content": what})
    if messages[-1]["role"] != role and role == "assistant":
        return "does not end with the assistant"
    return messages
