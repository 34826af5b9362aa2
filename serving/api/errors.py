"""Errors become RFC 9457 problem answers, in one table. None repeats what a user wrote."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving import errors
from serving.api.schemas import TAG_MARK

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 2.0
MAX_ITEMS = 100
WHOLE = "request"

_STATUS: tuple[tuple[type[errors.ServingError], int, str, str], ...] = (
    (errors.NotFound, 404, "not-found", "Not found"),
    (errors.InvalidInput, 422, "invalid-input", "Invalid input"),
    (errors.Overloaded, 429, "overloaded", "Too much at once"),
    (errors.ModelUnavailable, 503, "model-unavailable", "The model does not answer"),
)
_HTTP_TITLES = {
    400: ("bad-request", "Bad request"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    413: ("too-large", "Too large"),
    415: ("unsupported-media-type", "Unsupported media type"),
}
_MESSAGES = {"model_attributes_type": "Input should be an object", "extra_forbidden": "there is no such field"}
"""Where the validator's own words quote the input, or say more about the code than about the request."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


def problem(
    request_id: str,
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    items: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem answer."""
    body: dict[str, Any] = {
        "type": f"urn:embed-service:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if items is not None:
        body["errors"] = items
    return JSONResponse(body, status, media_type=PROBLEM_JSON, headers=headers)


def request_id_of(request: Request) -> str:
    """The id of a request, which its answer carries too."""
    return request.scope.get("state", {}).get("request_id", "")


def install(app: FastAPI) -> None:
    """Translate every error of `app` into a problem answer."""
    app.add_exception_handler(errors.ServingError, _serving_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _serving_error(request: Request, error: Exception) -> JSONResponse:
    for kind, status, name, title in _STATUS:
        if isinstance(error, kind):
            headers: dict[str, str] = {}
            if status in {429, 503}:
                retry_after = error.retry_after_s if isinstance(error, errors.Overloaded) else RETRY_AFTER_S
                headers["Retry-After"] = str(max(1, round(retry_after)))
            items = None
            if isinstance(error, errors.InvalidInput):
                items = [{"field": error.field or WHOLE, "message": str(error)}]
            return problem(request_id_of(request), status, name, title, str(error), items=items, headers=headers)
    raise error


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    items = [{"field": _field(item["loc"]), "message": _message(item)} for item in found[:MAX_ITEMS]]
    detail = f"{len(found)} part{'s' if len(found) > 1 else ''} of the request could not be understood"
    return problem(request_id_of(request), 422, "invalid-input", "Invalid input", detail, items=items)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind, title = _HTTP_TITLES.get(error.status_code, ("http-error", "Error"))
    detail = "there is nothing at this path" if error.status_code == 404 else str(error.detail)
    return problem(request_id_of(request), error.status_code, kind, title, detail, headers=error.headers)


def _field(location: Sequence[str | int]) -> str:
    """The path to a part of a request. A name that is none stays out of it: it may be anything a user wrote."""
    parts = [str(part) for part in location[1:] if not str(part).startswith(TAG_MARK)]
    return ".".join(part if part.isdigit() or _NAME.fullmatch(part) else "?" for part in parts) or WHOLE


def _message(item: Mapping[str, Any]) -> str:
    """What is wrong, without what was given."""
    return _MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
