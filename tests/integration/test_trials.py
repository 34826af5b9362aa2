"""A second embedding space beside the one that serves: filled, searched, kept up, compared and gone, on real tables."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import numpy as np
import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.errors import InvalidInput, ModelUnavailable, NotFound, NotReady, Overloaded
from app.domain.memory import MemoryType
from app.domain.spaces import PROBE
from app.domain.trials import Trial
from app.ports import SystemClock
from app.services import trial_spaces
from app.services.choices import ExecuteRequest
from app.services.feedback import Feedback
from app.services.ranking import SearchRequest
from app.services.trials import TrialService
from app.settings import Settings
from app.store.engine import Database
from app.store.memories import SearchFilter
from app.store.spaces import SpaceStore
from app.store.trials import TrialStore
from app.wiring import build_services
from tests.fakes import FakeEmbedder
from tests.integration.conftest import choose, facts

ENDPOINT = "http://second.example/embed"
DIMENSION = 64


class SecondEmbedder(FakeEmbedder):
    """A space of 64 dimensions. `fails_after`: so many texts until the calls fail."""

    def __init__(self) -> None:
        super().__init__("second")
        self.name = "second"
        self.fails_after: int | None = None
        self.takes_s = 0.0

    @property
    def space(self) -> EmbeddingSpace:
        return EmbeddingSpace(self.name, "0", DIMENSION)

    @property
    def texts(self) -> list[str]:
        """Every text it was asked for, but what it is recognised by."""
        return [one for call in self.calls for one in call if one != PROBE]

    async def embed(self, texts: Sequence[str]) -> Vectors:
        await asyncio.sleep(self.takes_s)
        if self.fails_after is not None and len(self.texts) >= self.fails_after:
            raise ModelUnavailable("it was switched off", "unreachable")
        vectors = (await super().embed(texts))[:, :DIMENSION]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class House:
    """Services with a second embedder behind ENDPOINT, and a tenant."""

    def __init__(self, services: Services, second: SecondEmbedder, tenant: str) -> None:
        self.services, self.second, self.tenant = services, second, tenant
        self.trials = TrialService(
            services.database, services.spaces, services.trials, TrialStore(), SpaceStore(), SystemClock()
        )

    async def start(self, share: float = 0.5, **more: Any) -> Trial:
        status = await self.trials.start(self.tenant, ENDPOINT, share, **more)
        assert status.filled == status.memories
        return status.trial

    async def remember(self, user: str, *said: str) -> Sequence[Any]:
        return (await self.services.memories.add(self.tenant, user, facts(*said))).ids

    async def space_of(self, user: str, query: str = "which tool do I use?") -> str:
        """The space that answers a user; all vectors that were compared are of it."""
        ranking = self.services.ranking
        found = await ranking.search(self.tenant, user, SearchRequest(query))
        read = await ranking.read(self.tenant, user, query)
        where = SearchFilter(SystemClock().now())
        async with self.services.database.transact(self.tenant) as statements:
            candidates = await ranking.candidates(statements, self.tenant, user, read, arm=20, where=where)
        dimensions = {len(one.vector) for one in candidates.found}
        assert dimensions == {DIMENSION if candidates.space == self.second.space.id else 384}
        return found.space

    async def table(self) -> str:
        """Where the second space's vectors are."""
        return (await self.services.spaces.stored(self.second.space.id)).memory_table

    async def vectors(self, user: str | None = None) -> int:
        async with self.services.database.begin(self.tenant) as connection:
            table = await self.table()
            query = text(f"SELECT count(*) FROM {table} WHERE CAST(:user AS text) IS NULL OR user_id = :user")
            return (await connection.execute(query, {"user": user})).scalar_one()

    def name(self, trial: Trial, is_in: bool) -> str:
        return next(name for name in names() if trial.has(name) is is_in)


def names() -> Iterator[str]:
    return (f"user-{number}" for number in range(1000))


@pytest.fixture
async def house(
    settings: Settings, database: Database, embedder: OnnxEmbedder, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    second = SecondEmbedder()
    monkeypatch.setattr("app.wiring.HttpEmbedder", lambda _endpoint, **_: second)
    built = build_services(settings, database, embedder)
    await built.catalogues.warm()
    yield House(built, second, tenant)
    await built.afterwards.aclose()


async def until(is_so: Callable[[], Any]) -> None:
    for _ in range(200):
        if await is_so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to be")


async def test_a_share_of_the_users_search_in_the_second_space_the_others_as_before(house: House) -> None:
    for user in list(names())[:12]:
        await house.remember(user, f"I use Docker, says {user}", "My cat is called Mitzi")
    seen: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> None:
        seen.append((done, total))

    trial = await house.start(on_filled=watch)

    assert seen[0] == (0, 24)
    assert seen[-1] == (24, 24)
    serving, second = house.services.embedder.space.id, house.second.space.id
    spaces = {user: await house.space_of(user) for user in list(names())[:12]}
    assert spaces == {user: second if trial.has(user) else serving for user in spaces}
    assert set(spaces.values()) == {serving, second}


async def test_hypotheses_and_executions_search_there_too(house: House) -> None:
    trial = await house.start()
    for is_in in (True, False):
        user = house.name(trial, is_in)
        await house.remember(user, "I use Docker")
        house.second.calls.clear()
        _, executed = await choose(house.services, house.tenant, user, "deploy my app")
        await house.services.reflection.enrich(house.tenant, user, "build an api")
        asked = house.second.texts

        assert executed.prompt.text
        assert ("deploy my app" in asked) is is_in
        assert ("build an api" in asked) is is_in


async def test_what_is_written_meanwhile_has_vectors_in_both_spaces(house: House) -> None:
    """Added, changed and deleted memories: the answer stays in the second space, and no old vector is left."""
    trial = await house.start()
    user = house.name(trial, True)
    added = await house.remember(user, "I use Docker", "My cat is called Mitzi")
    assert await house.vectors(user) == 2
    await house.services.memories.update(house.tenant, added[0], {"content": "I use Podman"})
    assert await house.space_of(user) == trial.space
    async with house.services.database.begin(house.tenant) as connection:
        query = text(f"SELECT CAST(embedding AS float4[]) FROM {await house.table()} WHERE memory_id = :id")
        stored = (await connection.execute(query, {"id": added[0]})).scalar_one()
    assert np.allclose(stored, (await house.second.embed(["I use Podman"]))[0], atol=1e-3)
    found = await house.services.ranking.search(house.tenant, user, SearchRequest("I use Podman"))
    assert found.ranked[0].memory.content == "I use Podman"
    await house.services.memories.delete_one(house.tenant, added[0])
    assert await house.vectors(user) == 1


async def test_a_dead_endpoint_fails_no_write_and_the_serving_space_answers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed amid the trial: searches and writes go on, in the serving space whole; when it is back, a search has the
    missing vectors made, and from then on the second space answers."""
    monkeypatch.setattr(trial_spaces, "REST", timedelta(0))
    trial = await house.start()
    user = house.name(trial, True)
    await house.remember(user, "I use Docker")
    assert await house.space_of(user) == trial.space
    house.second.fails_after = 0
    await house.remember(user, "My cat is called Mitzi")
    serving = house.services.embedder.space.id
    assert await house.space_of(user) == serving
    found = await house.services.ranking.search(house.tenant, user, SearchRequest("what is my cat called?"))
    assert found.ranked[0].memory.content == "My cat is called Mitzi"
    assert not found.is_degraded

    house.second.fails_after = None
    assert await house.space_of(user) == serving, "one memory lacks its vector: not a mixture"

    async def is_back() -> bool:
        return await house.space_of(user) == trial.space

    await until(is_back)


async def test_a_slow_or_changed_endpoint_is_left_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = await house.start()
    user = house.name(trial, True)
    await house.remember(user, "I use Docker")
    house.second.name = "another"
    assert await house.space_of(user) == house.services.embedder.space.id
    house.second.name = "second"
    house.second.calls.clear()
    assert await house.space_of(user) == house.services.embedder.space.id
    assert house.second.calls == [], "it rests"
    monkeypatch.setattr(trial_spaces, "QUERY_S", 0.05)
    house.second.takes_s = 5.0
    other = build_like(house)
    assert (await other.search(house.tenant, user, SearchRequest("tool"))).space == house.services.embedder.space.id


def build_like(house: House) -> Any:
    """The ranking of another process on the same database."""
    parts = house.services
    return build_services(parts.settings, parts.database, parts.embedder).ranking


async def test_a_broken_off_filling_goes_on_where_it_was(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches; what was embedded is not embedded again; until it is complete nobody is in the trial."""
    monkeypatch.setattr(trial_spaces, "BATCH", 4)
    for user in list(names())[:10]:
        await house.remember(user, *(f"fact {number} of {user}" for number in range(4)))
    house.second.fails_after = 20
    with pytest.raises(ModelUnavailable, match="switched off"):
        await house.start()
    half = await house.trials.status(house.tenant)
    assert (half.trial.status, half.trial.started_at) == ("filling", None)
    assert 16 <= half.filled < half.memories == 40
    with pytest.raises(NotReady, match="has not begun"):
        await house.trials.report(house.tenant)
    assert await house.space_of("user-0") == house.services.embedder.space.id
    with pytest.raises(InvalidInput, match="stop it first"):
        await house.trials.start(house.tenant, "http://third.example")
    house.second.fails_after = None
    house.second.calls.clear()
    trial = await house.start()

    assert (trial.trial_id, trial.status) == (half.trial.trial_id, "running")
    assert len(house.second.texts) == 40 - half.filled
    again = await house.start()
    assert again == trial


async def test_a_busy_endpoint_is_waited_for(house: House) -> None:
    await house.remember("user-0", "I use Docker")
    real, refusals = house.second.embed, 0

    async def embed(texts: Sequence[str]) -> Vectors:
        nonlocal refusals
        if PROBE not in texts and refusals < 2:
            refusals += 1
            raise Overloaded("busy", 0.01)
        return await real(texts)

    house.second.embed = embed  # pyright: ignore[reportAttributeAccessIssue]
    await house.start()
    assert refusals == 2


async def test_no_answer_mixes_spaces_while_memories_are_written(house: House) -> None:
    """Searches beside adds and changes of the same user; `space_of` looks at every vector it compared."""
    trial = await house.start()
    user = house.name(trial, True)
    ids = [await house.remember(user, f"I know tool {word}") for word in ("hammer", "saw", "drill")]
    house.second.takes_s = 0.01

    async def write() -> None:
        for number, animal in enumerate("ant bee cat dog elk fox".split()):
            await house.services.memories.add(house.tenant, user, facts(f"Saw one {animal}", kind=MemoryType.HISTORY))
            await house.services.memories.update(house.tenant, ids[number % 3][0], {"content": f"Tool of {animal}"})

    async def search() -> set[str]:
        return {await house.space_of(user, f"tool {number}") for number in range(20)}

    spaces = (await asyncio.gather(write(), search(), search()))[1:]
    assert set.union(*spaces) <= {trial.space, house.services.embedder.space.id}

    async def is_back() -> bool:
        return await house.space_of(user) == trial.space

    await until(is_back)


async def test_one_memory_without_a_vector_is_noticed_among_many(house: House) -> None:
    """Also where it would not have been among the nearest, and says none of the query's words."""
    trial = await house.start()
    user = house.name(trial, True)
    drafts = facts(*(f"The blue tool number {number} was here" for number in range(60)), kind=MemoryType.HISTORY)
    odd = facts("Rain fell", kind=MemoryType.HISTORY)
    ids = (await house.services.memories.add(house.tenant, user, [*drafts, *odd])).ids

    async def is_complete() -> bool:
        return await house.vectors(user) == 61

    await until(is_complete)
    assert await house.space_of(user, "blue tool") == trial.space
    async with house.services.database.begin(house.tenant) as connection:
        await connection.execute(text(f"DELETE FROM {await house.table()} WHERE memory_id = :id"), {"id": ids[-1]})
    found = await house.services.ranking.search(house.tenant, user, SearchRequest("blue tool"))
    assert found.space == house.services.embedder.space.id


async def test_an_erased_user_has_no_vector_left_and_an_imported_one_gets_them(
    house: House, database: Database
) -> None:
    trial = await house.start()
    user, other = house.name(trial, True), house.name(trial, False)
    for each in (user, other):
        await house.remember(each, "I use Docker", "My cat is called Mitzi")
    lines = [line async for line in house.services.transfer.export(house.tenant, user)]
    await house.services.transfer.erase(house.tenant, user)
    superuser = await asyncpg.connect(database.server.url.replace("+asyncpg", ""))
    held = await superuser.fetch(f"SELECT user_id FROM {await house.table()} WHERE tenant_id = $1", house.tenant)
    await superuser.close()
    assert {row["user_id"] for row in held} == {other}
    await house.services.transfer.import_(house.tenant, lines)
    assert await house.space_of(user) == house.services.embedder.space.id

    async def is_back() -> bool:
        return await house.space_of(user) == trial.space

    await until(is_back)


async def test_a_trial_is_its_tenants_alone(house: House, other_tenant: str) -> None:
    trial = await house.start()
    user = house.name(trial, True)
    await house.remember(user, "I use Docker")
    await house.services.memories.add(other_tenant, user, facts("I use Docker"))
    found = await house.services.ranking.search(other_tenant, user, SearchRequest("tool"))
    assert found.space == house.services.embedder.space.id
    with pytest.raises(NotFound, match="has had no trial"):
        await house.trials.status(other_tenant)
    async with house.services.database.begin(other_tenant) as connection:
        assert (await connection.execute(text(f"SELECT count(*) FROM {await house.table()}"))).scalar_one() == 0


async def test_the_report_counts_what_users_did_since_the_beginning(house: House) -> None:
    """Before it, nothing counts; a set with a selection, an execution with a memory found for it, its success."""
    await house.remember("user-0", "I use Docker")
    await choose(house.services, house.tenant, "user-0", "deploy my app")
    trial = await house.start()
    inside, outside = house.name(trial, True), house.name(trial, False)
    for user in (inside, outside):
        await house.remember(user, "I prefer short answers")
    await house.services.memories.add(house.tenant, inside, facts("My shop runs on AWS", kind=MemoryType.PROFILE))
    _, executed = await choose(house.services, house.tenant, inside, "where does my shop run?", "h1")
    await house.services.feedback.give(house.tenant, inside, Feedback(executed.execution_id, is_success=True))
    await house.services.context.execute(house.tenant, outside, ExecuteRequest("sing"))
    made = await house.trials.report(house.tenant)

    figures = {one.metric: (one.serving, one.candidate) for one in made.figures}
    assert [(arm.hits, arm.tries, arm.users) for arm in figures["use"]] == [(0, 1, 1), (1, 1, 1)]
    assert [(arm.hits, arm.tries, arm.users) for arm in figures["selection"]] == [(0, 0, 0), (1, 1, 1)]
    assert [(arm.hits, arm.tries, arm.users) for arm in figures["success"]] == [(0, 0, 0), (1, 1, 1)]
    assert made.advice.verdict == "keep_running"


async def test_a_stopped_trial_leaves_its_outcomes_and_no_vector(house: House) -> None:
    await house.remember("user-0", "I use Docker")
    trial = await house.start()
    ended = await house.trials.stop(house.tenant)

    assert (ended.trial_id, ended.status) == (trial.trial_id, "ended")
    assert await house.vectors() == 0
    user = house.name(trial, True)
    await house.remember(user, "I use Docker")
    assert await house.space_of(user) == house.services.embedder.space.id
    assert (await house.services.trials.fill(trial, house.tenant)).written == 0, "a process that does not know yet"
    assert await house.vectors() == 0
    assert (await house.trials.report(house.tenant)).trial == ended
    with pytest.raises(NotFound, match="no trial is filling or running"):
        await house.trials.stop(house.tenant)
    assert (await house.start()).trial_id != trial.trial_id


async def test_what_cannot_be_tried_is_refused(house: House) -> None:
    with pytest.raises(InvalidInput, match="both arms"):
        await house.start(share=1.0)
    with pytest.raises(InvalidInput, match="without a password"):
        await house.trials.start(house.tenant, "http://me:secret@second.example")
    async with house.services.database.begin(house.tenant) as connection:
        second = await house.services.spaces.register(ENDPOINT)
        await SpaceStore().begin_to_serve(connection, house.tenant, second)
    house.services.spaces.forget(house.tenant)
    with pytest.raises(InvalidInput, match="serves already"):
        await house.start()
    house.second.fails_after = 0
    with pytest.raises(ModelUnavailable, match="switched off"):
        await house.start()
    with pytest.raises(NotFound):
        await house.trials.status(house.tenant)
