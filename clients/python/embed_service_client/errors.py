"""What can go wrong with a call."""

from dataclasses import dataclass
from typing import Any, ClassVar, cast


class EmbedServiceError(Exception):
    """Base of everything that a client raises."""


class Unreachable(EmbedServiceError):
    """No whole answer came: nobody listens, the connection broke, or it took too long. `request_id` is the one that
    was sent: where the service got it, its log has it."""

    def __init__(self, message: str, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class UnexpectedAnswer(EmbedServiceError):
    """The answer is none that the service's document describes: another release, or another server."""


@dataclass(frozen=True)
class FieldError:
    """One part of a request that was not understood."""

    field: str
    message: str


class Problem(EmbedServiceError):
    """The service refused (RFC 9457). `type` names the kind of problem, `detail` says what to do about this one,
    `errors` the fields it is about; `retry_after_s` is the time to wait, where the service says one."""

    of_status: ClassVar[dict[int, type["Problem"]]] = {}

    def __init__(
        self,
        *,
        type: str,  # noqa: A002 - the standard's own name
        title: str,
        status: int,
        detail: str,
        request_id: str,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.type, self.title, self.status, self.detail = type, title, status, detail
        self.request_id, self.errors, self.retry_after_s = request_id, errors, retry_after_s


class Unauthenticated(Problem):
    """401: no valid key where one is needed."""


class Forbidden(Problem):
    """403: the key lacks the scope."""


class NotFound(Problem):
    """404: there is no such thing, or it is someone else's."""


class Conflict(Problem):
    """409: someone else changed or erased it first."""


class InvalidInput(Problem):
    """400, 413, 415 or 422: the request is not understood; `errors` names the fields."""


class Overloaded(Problem):
    """429: too much at once."""


class Unavailable(Problem):
    """502, 503 or 504: a part of the service does not answer."""


Problem.of_status.update(
    {
        400: InvalidInput,
        401: Unauthenticated,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        413: InvalidInput,
        415: InvalidInput,
        422: InvalidInput,
        429: Overloaded,
        502: Unavailable,
        503: Unavailable,
        504: Unavailable,
    }
)


def problem_of(status: int, reason: str, body: object, request_id: str, retry_after_s: float | None = None) -> Problem:
    """The exception for an answer with an error's status. A body that is no problem, such as a proxy's page, is left
    out."""
    said = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    items: list[dict[str, Any]] = said.get("errors") or []
    return Problem.of_status.get(status, Problem)(
        type=str(said.get("type", "about:blank")),
        title=str(said.get("title", reason)),
        status=status,
        detail=str(said.get("detail", "")),
        request_id=str(said.get("request_id", request_id)),
        errors=tuple(FieldError(item["field"], item["message"]) for item in items),
        retry_after_s=retry_after_s,
    )
