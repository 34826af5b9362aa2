"""From the first request to the last: loading once, a full queue, callers who hang up."""

import asyncio
import threading
import time

import httpx
import pytest

from serving.errors import ModelRefused
from serving.main import create_app
from serving.settings import ServeSettings
from tests.serving.fakes import FakeBackend
from tests.serving.running import open_client

SETTINGS = ServeSettings(_env_file=None, queue_tokens=40)


async def test_many_first_requests_load_once() -> None:
    loads: list[int] = []

    def open_slowly() -> FakeBackend:
        loads.append(threading.get_ident())
        time.sleep(0.2)
        return FakeBackend()

    async with open_client(open_slowly, SETTINGS, is_lazy=True) as client:
        before = (await client.get("/healthz")).json()
        answers = await asyncio.gather(*(client.post("/embed", json={"inputs": ["a"]}) for _ in range(20)))
        after = (await client.get("/healthz")).json()

    assert [each.status_code for each in answers] == [200] * 20
    assert len(loads) == 1
    assert (before["model"], after["model"]) == ("loading", "ready")


async def test_probes_answer_while_a_model_is_being_loaded() -> None:
    gate = threading.Event()

    def open_slowly() -> FakeBackend:
        assert gate.wait(10)
        return FakeBackend()

    async with open_client(open_slowly, SETTINGS, is_lazy=True) as client:
        first = asyncio.create_task(client.post("/embed", json={"inputs": ["a"]}))
        await asyncio.sleep(0.05)
        assert (await client.get("/healthz")).status_code == 200
        assert not first.done()
        gate.set()
        assert (await first).status_code == 200


async def test_a_load_that_failed_is_tried_again() -> None:
    tries = 0

    def open_at_last() -> FakeBackend:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ModelRefused("the disk is not there yet")
        return FakeBackend()

    async with open_client(open_at_last, SETTINGS, is_lazy=True) as client:
        failed = await client.post("/embed", json={"inputs": ["a"]})
        unready = await client.get("/readyz")
        answered = await client.post("/embed", json={"inputs": ["a"]})
        ready = await client.get("/readyz")

    assert (failed.status_code, unready.status_code) == (503, 503)
    assert failed.json()["detail"] == unready.json()["detail"] == "the disk is not there yet"
    assert (answered.status_code, ready.status_code) == (200, 200)


async def test_a_model_that_cannot_be_loaded_stops_the_start() -> None:
    def refuse() -> FakeBackend:
        raise ModelRefused("no model")

    app = create_app(refuse, SETTINGS)
    with pytest.raises(ModelRefused):
        async with app.router.lifespan_context(app):
            pass


async def until_queued(client: httpx.AsyncClient, tokens: int) -> None:
    async with asyncio.timeout(10):
        while f"serve_queued_tokens {float(tokens)}" not in (await client.get("/metrics")).text:  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0.005)


async def test_a_full_queue_is_429_with_retry_after(backend: FakeBackend) -> None:
    async with open_client(lambda: backend, SETTINGS) as client:
        backend.gate.clear()
        accepted = asyncio.create_task(client.post("/embed", json={"inputs": ["word " * 30]}))
        await until_queued(client, 30)
        refused = await client.post("/v1/embeddings", json={"input": "word " * 20})
        backend.gate.set()
        answered = await accepted
        figures = (await client.get("/metrics")).text

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert answered.status_code == 200
    assert "serve_refused_requests_total 1.0" in figures


async def test_work_of_a_caller_who_hung_up_is_dropped(backend: FakeBackend) -> None:
    app = create_app(lambda: backend, SETTINGS)
    body = b'{"inputs": ["never read by anybody"]}'
    hung_up = asyncio.Event()
    sent = False

    async def receive() -> dict[str, object]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body}
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        """Nobody listens."""

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/embed",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    async with app.router.lifespan_context(app):
        engine = await app.state.model.engine()
        backend.gate.clear()
        running = asyncio.create_task(engine.read(["first"]))
        await asyncio.sleep(0.05)
        request = asyncio.create_task(app(scope, receive, send))
        while engine.queued_tokens < 5:  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0.001)
        hung_up.set()
        await request
        backend.gate.set()
        await running
        await engine.read(["last one"])

    assert backend.runs == [[1], [2]]
