"""Domain errors become RFC 9457 problem answers, in one table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.routing import allowed_methods
from app.api.schemas import TAG_MARK, Problem
from app.domain import errors as domain

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"

_STATUS: tuple[tuple[type[domain.DomainError], int, str, str], ...] = (
    (domain.NotFound, 404, "not-found", "Not found"),
    (domain.InvalidInput, 422, "invalid-input", "Invalid input"),
    (domain.NotReady, 409, "not-ready", "Something is missing first"),
    (domain.AdapterRefused, 502, "adapter-refused", "The model server refused the adapter"),
    (domain.UserErased, 409, "user-erased", "Erased meanwhile"),
    (domain.VersionConflict, 409, "version-conflict", "Changed by someone else"),
    (domain.Unauthenticated, 401, "unauthenticated", "No valid API key"),
    (domain.Forbidden, 403, "forbidden", "Not allowed"),
    (domain.Overloaded, 429, "overloaded", "Too much at once"),
    (domain.UpstreamUnavailable, 502, "upstream-unavailable", "The chat model's server does not answer"),
    (domain.ModelUnavailable, 503, "model-unavailable", "A model does not answer"),
    (domain.StoreUnavailable, 503, "store-unavailable", "The database does not answer"),
)

_HTTP_TITLES = {
    400: ("bad-request", "Bad request"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    413: ("too-large", "Too large"),
    415: ("unsupported-media-type", "Unsupported media type"),
}

RETRY_AFTER_S = 2.0
MAX_ITEMS = 100
"""How many parts of one request are named in an answer."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
WHOLE = "request"
"""Where no one part is to blame."""

_MESSAGES = {
    "uuid_parsing": "Input should be a valid UUID",
    "model_attributes_type": "Input should be an object",
    "extra_forbidden": "there is no such field",
}
"""Where the validator's own words quote the input, or say more about the code than about the request."""


def problem(
    request_id: str,
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem answer."""
    body: dict[str, Any] = {
        "type": f"urn:embed-service:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if errors is not None:
        body["errors"] = errors
    return JSONResponse(body, status, media_type=PROBLEM_JSON, headers=headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI descriptions of the problem answers an operation may give."""
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    texts = {
        400: "The body is not JSON, or not UTF-8.",
        401: "A valid API key is needed.",
        403: "The key lacks the scope, or is bound to another user.",
        404: "There is no such thing, or it is someone else's.",
        409: "Someone else changed or erased it first.",
        413: "The body is too large.",
        415: "The body is of another media type.",
        422: "The request is not understood.",
        429: "Too much at once.",
        502: "The model server refused, or does not answer.",
        503: "A part of the service does not answer.",
    }
    always = (400, 401, 403, 413, 415, 422, 429, 503)
    return {status: {"description": texts[status], "content": content} for status in sorted({*always, *statuses})}


def request_id_of(request: Request) -> str:
    """The id that runs through all log lines of a request."""
    return request.scope.get("state", {}).get("request_id", "")


def install(app: FastAPI) -> None:
    """Translate every error of `app` into a problem answer."""
    app.add_exception_handler(domain.DomainError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _domain_error(request: Request, error: Exception) -> JSONResponse:
    for kind, status, name, title in _STATUS:
        if isinstance(error, kind):
            headers: dict[str, str] = {}
            if status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            if status in {429, 503}:
                retry_after = error.retry_after_s if isinstance(error, domain.Overloaded) else RETRY_AFTER_S
                headers["Retry-After"] = str(max(1, round(retry_after)))
            detail = str(error)
            items = None
            if isinstance(error, domain.InvalidInput):
                items = [{"field": error.field or WHOLE, "message": detail}]
            if isinstance(error, domain.StoreUnavailable):
                log.warning("store_unavailable", reason=detail)
                detail = "the database does not answer; try again"
            return problem(request_id_of(request), status, name, title, detail, errors=items, headers=headers)
    raise error


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    items = faults([item | {"loc": item["loc"][1:]} for item in found[:MAX_ITEMS]])
    detail = f"{len(found)} part{'s' if len(found) > 1 else ''} of the request could not be understood"
    return problem(request_id_of(request), 422, "invalid-input", "Invalid input", detail, errors=items)


def faults(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each part of a request that a validator refused, and why, without what it was."""
    return [{"field": _field(item["loc"]), "message": _message(item)} for item in found]


def _field(location: Sequence[str | int]) -> str:
    """The path to a part of a request. A name that is none stays out of it: it may be anything a user wrote."""
    parts = [str(part) for part in location if not str(part).startswith(TAG_MARK)]
    return ".".join(part if part.isdigit() or _NAME.fullmatch(part) else "?" for part in parts) or WHOLE


def _message(item: Mapping[str, Any]) -> str:
    """What is wrong, without what was given."""
    return _MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    kind, title = _HTTP_TITLES.get(status, ("http-error", "Error"))
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if status == 404:
        detail = "there is nothing at this path"
    if status == 405:
        headers["Allow"] = ", ".join(allowed_methods(request.app, request.scope["path"]))
        detail = f"this path answers {headers['Allow']}"
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
    return problem(request_id_of(request), status, kind, title, detail, headers=headers)


PROBLEM_SCHEMA = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
