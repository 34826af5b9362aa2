"""A manifest's bytes as JSON that means one thing: no key twice, no bombs."""

import json
from collections.abc import Sequence
from typing import Any

from app.domain.errors import InvalidInput

MAX_BYTES = 1024 * 1024
"""Of a manifest; ten thousand roles take less."""

MAX_DEPTH = 32


class JsonObject(dict[str, Any]):
    """An object that remembers a key it was given twice."""

    twice: str | None = None


def read_json(content: bytes) -> Any:
    """The document. Raises InvalidInput with one line for what is no JSON in UTF-8, too large or nested too deeply;
    keys given twice are marked, for whoever knows their place to refuse."""
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"has more than {MAX_BYTES:,} bytes: that is no manifest")
    if not content.strip():
        raise InvalidInput("is empty")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"is not UTF-8: see byte {error.start:,}") from None
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"is not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InvalidInput(f"is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # a number of more digits than Python reads
        raise InvalidInput("holds a number that is too long") from None
    _check_depth(document)
    return document


def _object(pairs: Sequence[tuple[str, Any]]) -> JsonObject:
    made = JsonObject(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        made.twice = next(name for name in names if names.count(name) > 1)
    return made


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            each
            for held in level
            if isinstance(held, dict | list)
            for each in (held.values() if isinstance(held, dict) else held)  # pyright: ignore[reportUnknownVariableType]
        ]
        if not level:
            return
    raise InvalidInput(f"is nested deeper than {MAX_DEPTH} levels")
