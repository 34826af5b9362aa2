"""What the doctor's requests over HTTP have in common."""

from typing import Any

import httpx2
import orjson

REQUEST_LIMIT_S = 5.0


def failure(error: Exception, limit_s: float = REQUEST_LIMIT_S) -> str:
    """How a request failed, as the end of a sentence about the server."""
    if isinstance(error, httpx2.TimeoutException):
        return f"does not answer within {limit_s:g} s"
    return f"cannot be reached ({type(error).__name__})"


def json_in(response: httpx2.Response) -> Any:
    """The body of a good answer; None of any other, and of one that is not JSON."""
    if not response.is_success:
        return None
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
