"""A replica changes its model while it answers: nothing is refused, nothing is half of each."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.errors import ModelRefused, ModelUnavailable
from serving.main import create_app
from serving.ray import switching
from serving.ray.registry import Choice, Registry
from serving.ray.switching import NamedBackend, SwitchingApp
from serving.settings import ServeSettings
from tests.serving.fakes import POISON, FakeBackend
from tests.serving.ray.registries import write_registry


class Replica:
    """A switching application around fake models, one for each load, with a client and its registry."""

    def __init__(self, folder: Path) -> None:
        self.runs: dict[str, Path | None] = {name: folder / name for name in ("first", "second", "broken", "differs")}
        self.registry = write_registry(folder / "adapters.json", "first", self.runs)
        self.backends: list[FakeBackend] = []
        self.app = SwitchingApp(self.open_app, Registry(self.registry, None), watch_s=0.01)
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://replica")

    def open_app(self, choice: Choice) -> Any:
        """The application of a fake model."""

        def open_backend() -> NamedBackend:
            if choice.name == "broken":
                raise ModelRefused("it is broken")
            self.backends.append(FakeBackend())
            return NamedBackend(self.backends[-1], choice.name)

        app = create_app(open_backend, ServeSettings(_env_file=None))
        if choice.name == "differs":
            app.state.model.fault = "golden.json: the model's vectors are not the golden ones"
        return app

    def point_at(self, current: str | None) -> None:
        """Have the registry say that another one serves."""
        write_registry(self.registry, current, self.runs)

    async def embed(self, text: str = "a") -> httpx.Response:
        """The answer to one text."""
        return await self.client.post("/embed", json={"inputs": [text]})

    async def serves(self, name: str) -> None:
        """Return as soon as it does."""
        await until(lambda: self.app.served.model == name)


async def until(is_so: Callable[[], bool]) -> None:
    """Return as soon as it is so."""
    async with asyncio.timeout(10):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    """A replica that serves `first`."""
    made = Replica(tmp_path)
    await made.app.start()
    yield made
    for backend in made.backends:
        backend.gate.set()
    await made.app.aclose()


async def test_requests_in_flight_end_with_their_model_and_the_next_one_has_the_new(replica: Replica) -> None:
    (old,) = replica.backends
    old.gate.clear()
    begun = [asyncio.create_task(replica.embed()) for _ in range(3)]  # one is in the model, the others wait for it
    await asyncio.sleep(0.05)
    replica.point_at("second")
    await replica.serves("second")
    following = await replica.embed()
    assert not old.is_closed
    old.gate.set()

    assert [(await each).json().get("model") for each in begun] == ["first"] * 3
    assert following.json()["model"] == "second"
    await until(lambda: old.is_closed)


async def test_requests_all_through_many_switches_are_answered(replica: Replica) -> None:
    models: list[str] = []

    async def ask() -> None:
        while True:
            found = await replica.embed()
            assert found.status_code == 200
            models.append(found.json()["model"])

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for name in ("second", "first") * 3:
        replica.point_at(name)
        await replica.serves(name)
        await asyncio.sleep(0.02)
    for task in asking:
        assert not task.done(), task.exception()
        task.cancel()
    await asyncio.wait(asking)

    assert set(models) == {"first", "second"}
    assert len(replica.backends) == 7


@pytest.mark.parametrize("wrong", ["broken", "differs", "gone", "no checkpoint", "no registry"])
async def test_what_cannot_be_served_leaves_the_present_model_and_is_said(replica: Replica, wrong: str) -> None:
    if wrong in replica.runs:
        replica.point_at(wrong)
    elif wrong == "gone":
        replica.registry.unlink()
    elif wrong == "no checkpoint":
        replica.runs["second"] = None
        replica.point_at("second")
    else:
        replica.registry.write_text("[]", "utf8")

    said = await replica.app.look()

    assert said.model == "first"
    assert said.fault
    assert (await replica.embed()).json()["model"] == "first"
    replica.runs["second"] = replica.registry.parent / "second"
    replica.point_at("second")
    said = await replica.app.look()
    assert (said.model, said.wanted, said.fault) == ("second", "second", None)


async def test_a_load_that_failed_is_tried_again_later(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    replica.point_at("second")
    real = replica.open_app
    monkeypatch.setattr(replica.app, "_open_app", lambda _: real(Choice("broken", Path())))
    assert (await replica.app.look()).fault == "it is broken"
    monkeypatch.setattr(replica.app, "_open_app", real)
    assert (await replica.app.look()).model == "first"

    monkeypatch.setattr(switching, "RETRY_S", 0.0)

    assert (await replica.app.look()).model == "second"


async def test_the_same_choice_is_not_loaded_again(replica: Replica) -> None:
    replica.runs["another"] = Path("another")
    replica.point_at("first")

    assert (await replica.app.look()).model == "first"
    assert len(replica.backends) == 1


async def test_health_is_that_of_the_model(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    await replica.app.check()
    monkeypatch.setattr(switching, "_PROBE", POISON)
    with pytest.raises(ModelUnavailable):
        await replica.app.check()


async def test_a_first_model_that_cannot_be_served_stops_the_start(tmp_path: Path) -> None:
    made = Replica(tmp_path)
    made.point_at("broken")

    with pytest.raises(ModelRefused, match="it is broken"):
        await made.app.start()


async def test_the_end_frees_the_model(tmp_path: Path) -> None:
    made = Replica(tmp_path)
    await made.app.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(made.app.aclose)
        assert (await made.embed()).status_code == 200

    assert made.backends[0].is_closed
