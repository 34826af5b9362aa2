"""How a request comes in: JSON in UTF-8, and work that ends when its caller hangs up."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from serving.metrics import Metrics
from serving.model import ServedModel
from serving.settings import ServeSettings


class JsonRequest(Request):
    """A request whose body is JSON as RFC 8259 has it: no NaN, no halves of characters, no bombs."""

    async def json(self) -> Any:
        """The parsed body. Raises HTTPException (400)."""
        if not hasattr(self, "_json"):
            try:
                self._json = orjson.loads(await self.body())
            except orjson.JSONDecodeError as error:
                where = f"line {error.lineno}, column {error.colno}"
                raise HTTPException(400, f"the body is not valid JSON in UTF-8: see {where}") from None
        return self._json


class JsonRoute(APIRoute):
    """A route that takes JSON; what it began is cancelled when the caller is gone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the checks."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None

        async def checked(request: Request) -> Response:
            if not takes_body:
                return await handle(request)
            media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
            if media_type != "application/json":
                raise HTTPException(415, "send the body with the header `Content-Type: application/json`")
            return await _while_connected(handle, JsonRequest(request.scope, request.receive))

        return checked


def make_router() -> APIRouter:
    """A router for one file of routes."""
    return APIRouter(route_class=JsonRoute, redirect_slashes=False)


def answer(document: Any) -> Response:
    """A JSON answer; arrays of numbers are written without becoming Python objects first."""
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def model_of(request: Request) -> ServedModel:
    """The model that is served."""
    return request.app.state.model


def settings_of(request: Request) -> ServeSettings:
    """What the server was told."""
    return request.app.state.settings


def metrics_of(request: Request) -> Metrics:
    """The figures of the server."""
    return request.app.state.metrics


# Not plain functions: FastAPI would send each of those to a thread, three for every request. Even so three of these
# take 0.15 ms: the routes that have to be quick call the functions above.
async def _model(request: Request) -> ServedModel:
    return model_of(request)


async def _settings(request: Request) -> ServeSettings:
    return settings_of(request)


async def _metrics(request: Request) -> Metrics:
    return metrics_of(request)


ModelDep = Annotated[ServedModel, Depends(_model)]
SettingsDep = Annotated[ServeSettings, Depends(_settings)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]


async def _while_connected(handle: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
    """The answer of `handle`, cancelled as soon as the caller hangs up. Raises ClientDisconnect then."""
    await request.body()
    work = asyncio.current_task()
    assert work is not None
    gone = asyncio.create_task(_cancel_when_gone(request, work))
    try:
        return await handle(request)
    except asyncio.CancelledError:
        if not gone.done():
            raise
        work.uncancel()
        raise ClientDisconnect from None
    finally:
        gone.cancel()


async def _cancel_when_gone(request: Request, work: "asyncio.Task[Any]") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    work.cancel()
