"""A real service on a model server with adapters: a promotion that is killed half-way, a model server that restarts."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.ports import SystemClock
from app.settings import Settings
from app.store.engine import open_database
from app.store.training import RunStore
from tests.e2e.running import RunningService, open_service
from tests.lora_routes import write_adapter
from tests.slm_server import MODEL, ModelServer, model_server

pytestmark = pytest.mark.slow

PROMOTE = """
import asyncio, sys
from app.services.afterwards import Afterwards
from app.settings import load_settings
from app.store.engine import open_database
from app.wiring import build_deployments, open_adapters

async def promote():
    settings = load_settings()
    database, adapters = await open_database(settings), open_adapters(settings)
    try:
        await build_deployments(database, adapters, Afterwards()).promote("default", sys.argv[1], 1)
    finally:
        await adapters.aclose()
        await database.aclose()

asyncio.run(promote())
"""


@dataclass(frozen=True)
class World:
    """A service, its model server, and a client."""

    service: RunningService
    server: ModelServer
    http: httpx.Client

    def hypothesize(self) -> dict[str, Any]:
        """The answer for a user of its own; it has to be the model's."""
        answer = self.http.post("/v1/hypothesize", json={"user_id": uuid4().hex, "input_text": "deploy my app"})
        assert answer.status_code == 200, answer.text
        made = answer.json()
        assert (made["source"], made["degraded"]) == ("vllm", False)
        assert made["model"] == (made["adapter"] or MODEL)
        return made

    def make_run(self) -> str:
        """An accepted run of the default tenant, with an adapter; its name."""
        run_id = f"sft-{uuid4().hex[:10]}"
        folder = self.service.folder / run_id
        write_adapter(folder / "adapter")
        asyncio.run(_insert_run(self.service.data_dir, run_id, folder))
        return run_id

    def begin_promotion(self, run_id: str) -> subprocess.Popen[bytes]:
        """A process that promotes a run to all."""
        names = {name.upper() for name in Settings.model_fields}
        env = {name: value for name, value in os.environ.items() if name.upper() not in names}
        own = {"DATA_DIR": str(self.service.data_dir), "LOG_DIR": str(self.service.log_dir)}
        command = [sys.executable, "-c", PROMOTE, run_id]
        return subprocess.Popen(command, cwd=self.service.folder, env=env | own | environment(self.server))

    def promote(self, run_id: str) -> None:
        assert self.begin_promotion(run_id).wait(timeout=60) == 0


@dataclass
class Asker:
    """A thread that asks all the time, and what it was answered by."""

    world: World
    adapters: list[str | None] = field(default_factory=list[str | None])
    errors: list[Exception] = field(default_factory=list[Exception])
    is_over: bool = False

    def run(self) -> None:
        try:
            while not self.is_over:
                self.adapters.append(self.world.hypothesize()["adapter"])
        except (AssertionError, httpx.HTTPError) as error:
            self.errors.append(error)

    def has_gone_on(self, count: int = 5) -> None:
        """Return when so many more answers came."""
        wanted = len(self.adapters) + count
        until(lambda: len(self.adapters) >= wanted or bool(self.errors))
        assert self.errors == []


async def _insert_run(data_dir: Path, run_id: str, folder: Path) -> None:
    database = await open_database(Settings(_env_file=None, data_dir=data_dir, database_url=None))
    row = {
        "tenant_id": "default",
        "run_id": run_id,
        "method": "sft",
        "base_model": MODEL,
        "folder": str(folder),
        "status": "accepted",
        "created_at": SystemClock().now(),
    }
    async with database.begin("default") as connection:
        await RunStore().insert(connection, row)
    await database.aclose()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def environment(server: ModelServer) -> dict[str, str]:
    return {"SLM_IMPL": "vllm", "VLLM_BASE_URL": server.base_url, "VLLM_MODEL_NAME": MODEL}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with model_server() as server, open_service(environment(server)) as service, service.client() as http:
        yield World(service, server, http)


@contextlib.contextmanager
def asking(world: World) -> Iterator[Asker]:
    asker = Asker(world)
    thread = threading.Thread(target=asker.run)
    thread.start()
    try:
        yield asker
    finally:
        asker.is_over = True
        thread.join(timeout=30)
    assert asker.errors == []


def test_a_promotion_killed_between_loading_and_commit(world: World) -> None:
    """Every request is answered by the model, by the old adapter until the new one is promoted whole; that holds from
    the next request on."""
    old, new = world.make_run(), world.make_run()
    world.promote(old)
    world.server.loras.hung.add(new)  # it is taken in; its first token does not come
    with asking(world) as asker:
        asker.has_gone_on()
        promotion = world.begin_promotion(new)
        until(lambda: any(asked.body["model"] == new for asked in world.server.chats()))
        asker.has_gone_on()

        promotion.kill()
        promotion.wait(timeout=10)

        asker.has_gone_on()
        assert set(asker.adapters) == {old}
        world.server.loras.hung.clear()
        world.promote(new)
        seen = len(asker.adapters)
        asker.has_gone_on()
    assert set(asker.adapters[seen + 1 :]) == {new}
    assert set(asker.adapters) == {old, new}


def test_a_restarted_model_server(world: World) -> None:
    """The base model answers until the adapter is back, which nobody has to ask for."""
    run = world.make_run()
    world.promote(run)
    assert world.hypothesize()["adapter"] == run

    world.server.loras.folders.clear()

    assert world.hypothesize()["adapter"] is None
    until(lambda: world.hypothesize()["adapter"] == run)
    assert [event["adapter"] for event in world.service.log_events("adapter_missing")] == [run]
    assert [event["adapter"] for event in world.service.log_events("adapter_loaded")] == [run]
    assert world.http.get("/readyz").json()["parts"]["slm_breaker"] == "closed"


def test_a_start_loads_what_is_served(world: World) -> None:
    """Without any request."""
    run = world.make_run()
    world.promote(run)
    world.service.stop()
    world.server.loras.folders.clear()

    world.service.start()

    until(lambda: run in world.server.loras.folders)
    assert world.hypothesize()["adapter"] == run
