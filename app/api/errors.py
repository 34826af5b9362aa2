"""Domain errors become RFC 9457 problem answers, in one table."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.schemas import Problem
from app.domain import errors as domain

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"

_STATUS: tuple[tuple[type[domain.DomainError], int, str, str], ...] = (
    (domain.NotFound, 404, "not-found", "Not found"),
    (domain.InvalidInput, 422, "invalid-input", "Invalid input"),
    (domain.VersionConflict, 409, "version-conflict", "Changed by someone else"),
    (domain.Unauthenticated, 401, "unauthenticated", "No valid API key"),
    (domain.Forbidden, 403, "forbidden", "Not allowed"),
    (domain.Overloaded, 429, "overloaded", "Too much at once"),
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

RETRY_AFTER_S = "2"


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
        403: "The key lacks the scope.",
        404: "There is no such thing, or it is someone else's.",
        409: "Someone else changed it first.",
        413: "The body is too large.",
        422: "The request is not understood.",
        429: "Too much at once.",
        503: "A part of the service does not answer.",
    }
    always = (400, 401, 403, 413, 422, 429, 503)
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
                retry_after = error.retry_after_s if isinstance(error, domain.Overloaded) else float(RETRY_AFTER_S)
                headers["Retry-After"] = str(max(1, round(retry_after)))
            field = error.field if isinstance(error, domain.InvalidInput) else None
            items = [{"field": field, "message": str(error)}] if field else None
            detail = str(error)
            if isinstance(error, domain.StoreUnavailable):
                log.warning("store_unavailable", reason=detail)
                detail = "the database does not answer; try again"
            return problem(request_id_of(request), status, name, title, detail, errors=items, headers=headers)
    raise error


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    items: list[dict[str, str]] = []
    for item in error.errors():
        if item["type"] == "json_invalid":
            detail = "the body is not valid JSON"
            return problem(request_id_of(request), 400, "bad-request", "Bad request", detail)
        location = [str(part) for part in item["loc"] if part != "body"]
        items.append({"field": ".".join(location), "message": item["msg"]})
    detail = f"{len(items)} part{'s' if len(items) > 1 else ''} of the request could not be understood"
    return problem(request_id_of(request), 422, "invalid-input", "Invalid input", detail, errors=items)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind, title = _HTTP_TITLES.get(error.status_code, ("http-error", "Error"))
    headers = dict(error.headers) if error.headers else None
    return problem(request_id_of(request), error.status_code, kind, title, str(error.detail), headers=headers)


PROBLEM_SCHEMA = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
