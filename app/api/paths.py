"""How the path of a request is read: a user may be called `a/b`."""

import re
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

SLASH = "\x1f"
"""Stands for a slash inside a path segment while routes are matched; see `readable_path`."""


class UnreadablePath(ValueError):
    """The path is not UTF-8."""


def readable_path(scope: Scope) -> str:
    """The path, decoded, with every escaped slash kept inside its segment: a user may be called `a/b`.

    Servers hand over the path decoded, where `/v1/persona/a%2Fb` looks like two segments and broken UTF-8 like
    a character. An escaped slash is put as SLASH, a control character no user id may hold, and put back where
    a user id is read; a SLASH that was there before becomes another control character, and is refused as one.
    """
    raw: bytes = (scope.get("raw_path") or b"").split(b"?", 1)[0]
    if b"%" not in raw:
        return scope["path"]
    raw = re.sub(rb"%2[fF]", b"%1F", re.sub(rb"%1[fF]", b"%1E", raw))
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise UnreadablePath from None


def user_in_segment(segment: str) -> str:
    """The user that a path segment names."""
    return segment.replace(SLASH, "/")
