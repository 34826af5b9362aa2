"""Conversations that are handed in: remembered in order, each turn once, whatever dies on the way."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.deps import Services
from app.domain.errors import ModelUnavailable, NotFound
from app.domain.jobs import JobKind
from app.domain.memory import Memory
from app.domain.turns import PIECE_WORDS, Utterance
from app.services.ingest import INGEST, IngestPayload
from app.services.jobs.ingest import IngestJobs
from app.services.jobs.run import JobHandler
from app.services.ranking import SearchRequest
from app.store.engine import Database
from app.store.ingests import Ingest, IngestStore
from tests.jobs import queue_of, until, working

USER = "ada"
BEGAN = datetime(2026, 3, 1, 9, tzinfo=UTC)


def said(*texts: str, role: str = "user") -> list[Utterance]:
    """Turns a minute apart."""
    return [Utterance(role, each, BEGAN + timedelta(minutes=number)) for number, each in enumerate(texts)]


@asynccontextmanager
async def ingesting(services: Services, kind: JobKind[IngestPayload] = INGEST) -> AsyncGenerator[IngestJobs]:
    """A worker that remembers what is handed in."""
    jobs = IngestJobs(services.database, services.turns, IngestStore())
    async with working(services.database, JobHandler(kind, jobs.handle)):
        yield jobs


async def finished(services: Services, tenant: str, *jobs: UUID) -> list[Ingest]:
    """The ingests, when all are done."""

    async def are_done() -> bool:
        return all([(await services.ingest.status(tenant, job))[1] == "done" for job in jobs])

    await until(are_done)
    return [(await services.ingest.status(tenant, job))[0] for job in jobs]


async def held(services: Services, tenant: str, user: str = USER) -> list[Memory]:
    """What the user's memories say now, oldest first."""
    return (await services.memories.page(tenant, user, limit=1000))[::-1]


async def test_turns_become_memories_that_know_where_they_were_said(services: Services, tenant: str) -> None:
    turns = said("Hello there.", "I live in Paris and I like tea.")
    turns.insert(1, Utterance("assistant", "Good morning! How can I help?", BEGAN))
    turns.append(Utterance("user", "My sister calls me Bob.", BEGAN + timedelta(minutes=9), speaker="Robert"))
    job = await services.ingest.begin(tenant, USER, turns, "monday")
    assert (await services.ingest.status(tenant, job))[1] == "waiting"

    async with ingesting(services):
        (ingest,) = await finished(services, tenant, job)

    kept = {memory.content: memory for memory in await held(services, tenant)}
    assert [kept[each.content].turn for each in turns] == [1, 2, 3, 4]
    assert {kept[each.content].session for each in turns} == {"monday"}
    assert [kept[each.content].speaker for each in turns] == ["user", "assistant", "user", "Robert"]
    assert kept[turns[2].content].valid_from == turns[2].said_at
    derived = [memory for memory in kept.values() if memory.source == "turn:monday:3"]
    assert derived, sorted(kept)
    assert all(memory.valid_from == turns[2].said_at for memory in derived)
    assert (ingest.turns, ingest.taken, ingest.passed_over) == (4, 4, 0)
    assert ingest.memories == len(kept)


async def test_what_is_handed_in_later_comes_after_it(services: Services, tenant: str) -> None:
    first = await services.ingest.begin(tenant, USER, said("One came by.", "Two came by."), "train")
    second = await services.ingest.begin(tenant, USER, said("Three came by."), "train")

    async with ingesting(services):
        await finished(services, tenant, first, second)

    assert {memory.content: memory.turn for memory in await held(services, tenant)} == {
        "One came by.": 1,
        "Two came by.": 2,
        "Three came by.": 3,
    }


async def test_a_conversation_that_is_handed_in_again_is_kept_once(services: Services, tenant: str) -> None:
    """With new turns at its end, and the last turns of it alone, whenever they are said to have been said."""
    texts = [f"Number {each} came by." for each in range(40)]
    once = await services.ingest.begin(tenant, USER, said(*texts), "train")
    later = [Utterance("user", each, BEGAN + timedelta(days=1)) for each in (*texts, "Forty came by.")]
    whole = await services.ingest.begin(tenant, USER, later, "train")
    window = [*later[-2:], Utterance("user", "That was the last one.", BEGAN)]
    end = await services.ingest.begin(tenant, USER, window, "train")
    one = await services.ingest.begin(tenant, USER, said(*texts)[7:8], "train")

    async with ingesting(services):
        ingests = await finished(services, tenant, once, whole, end, one)

    assert [ingest.deduplicated for ingest in ingests] == [0, 40, 2, 1]
    kept = {memory.turn: memory.content for memory in await held(services, tenant)}
    assert kept == dict(enumerate([*texts, "Forty came by.", "That was the last one."], 1))


async def test_what_is_said_twice_in_a_conversation_was_said_twice(services: Services, tenant: str) -> None:
    """In one request and in a later one: each with its own moment and place."""
    turns = said("Did you go?", "Yes, I did.", "And did you swim?", "Yes, I did.")
    first = await services.ingest.begin(tenant, USER, turns, "talk")
    again = [Utterance("user", "Yes, I did.", BEGAN + timedelta(days=1))]
    second = await services.ingest.begin(tenant, USER, again, "talk")

    async with ingesting(services):
        await finished(services, tenant, first, second)

    answers = [memory for memory in await held(services, tenant) if memory.content == "Yes, I did."]
    assert [memory.turn for memory in answers] == [2, 4, 5]
    assert [memory.valid_from for memory in answers] == [turns[1].said_at, turns[3].said_at, again[0].said_at]


async def test_the_end_of_a_long_turn_is_found_by_its_meaning(services: Services, tenant: str) -> None:
    """An embedding model reads the beginning of a text; what is behind that is remembered in pieces beside it."""
    talk = " ".join(f"The committee went over item {each} of its long agenda once more." for each in range(24))
    baking = (
        "Afterwards my grandmother baked a cherry cake for everybody. She mixed flour, butter and sugar in a bowl. "
        "Then the fruit went in, and it was in the oven for an hour. We ate it warm, with whipped cream on top."
    )
    long = f"{talk} {baking}"
    job = await services.ingest.begin(tenant, USER, said(long, "It rained all day.", "The bus was late."), "talk")

    async with ingesting(services):
        await finished(services, tenant, job)

    kept = await held(services, tenant)
    (whole,) = [memory for memory in kept if memory.content == long]
    pieces = [memory for memory in kept if memory.source == "turn:talk:1" and memory.type == "HISTORY"]
    pieces.sort(key=lambda memory: memory.turn or 0)
    assert [len(memory.content.split()) > PIECE_WORDS / 2 for memory in pieces] == [True, False]
    assert [len(memory.content.split()) <= PIECE_WORDS for memory in pieces] == [True] * len(pieces)
    assert long.endswith(" ".join(memory.content for memory in pieces))
    assert {(memory.speaker, memory.valid_from) for memory in pieces} == {("user", whole.valid_from)}
    request = SearchRequest("Who made dessert?", 1)
    (found,) = (await services.ranking.search(tenant, USER, request)).ranked
    assert found.memory == pieces[-1]
    assert found.cosine > 0.2


async def test_instructions_tools_and_recalled_memories_teach_nothing(services: Services, tenant: str) -> None:
    turns = [
        Utterance("system", "You are helpful. I live in Berlin.", BEGAN),
        Utterance("tool", "I live in Rome.", BEGAN),
        Utterance("user", "<memory>\nI live in Oslo.\n</memory>\nWhat do you know?", BEGAN),
    ]
    job = await services.ingest.begin(tenant, USER, turns)

    async with ingesting(services):
        (ingest,) = await finished(services, tenant, job)

    assert await held(services, tenant) == []
    assert (ingest.taken, ingest.passed_over, ingest.memories) == (3, 3, 0)


async def test_a_correction_finds_what_was_said_in_the_same_conversation(services: Services, tenant: str) -> None:
    turns = said("I live in Paris.", "The weather is fine.", "Sorry, I meant Lyon, not Paris.")
    job = await services.ingest.begin(tenant, USER, turns)

    async with ingesting(services):
        (ingest,) = await finished(services, tenant, job)

    profile = [memory.content for memory in await held(services, tenant) if memory.type == "PROFILE"]
    assert profile == ["I live in Lyon"]
    assert ingest.superseded == 1


async def test_a_key_hands_in_once(services: Services, tenant: str) -> None:
    """Whoever did not hear the answer asks again. Another user's key is another one."""
    turns = said("One came by.")
    job = await services.ingest.begin(tenant, USER, turns, key="monday")
    assert await services.ingest.begin(tenant, USER, turns, key="monday") == job
    assert await services.ingest.begin(tenant, "bob", turns, key="monday") != job
    assert len(await queue_of(services.database).find(kind="ingest", tenant_id=tenant)) == 2


async def test_each_turn_is_taken_once_whatever_the_worker_does_first(services: Services, tenant: str) -> None:
    """Two workers that both believe the job to be theirs: one of them keeps nothing of what it did."""
    job = await services.ingest.begin(tenant, USER, said(*(f"Number {each} came by." for each in range(40))))
    jobs = IngestJobs(services.database, services.turns, IngestStore())
    payload = IngestPayload(tenant_id=tenant, user_id=USER, ingest_id=job)

    outcomes = await asyncio.gather(*(jobs.take_some(payload) for _ in range(2)), return_exceptions=True)
    async with ingesting(services):
        (ingest,) = await finished(services, tenant, job)

    assert [type(each).__name__ for each in outcomes if isinstance(each, Exception)] in (["JobLost"], [])
    assert ingest.taken == 40
    contents = [memory.content for memory in await held(services, tenant)]
    assert contents == [f"Number {each} came by." for each in range(40)]


async def test_a_failure_in_the_middle_loses_and_repeats_nothing(
    services: Services, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third batch fails twice; what was remembered before it is not remembered again."""
    calls: list[int] = []
    real = services.spaces.embed

    async def embed(tenant_id: str, texts: Sequence[str]) -> Any:
        calls.append(len(texts))
        if len(calls) in {3, 4}:
            raise ModelUnavailable("out for a moment", "timeout")
        return await real(tenant_id, texts)

    monkeypatch.setattr(type(services.spaces), "embed", lambda _, tenant_id, texts: embed(tenant_id, texts))
    quick = JobKind("ingest", IngestPayload, first_wait_s=0.05)
    job = await services.ingest.begin(tenant, USER, said(*(f"Number {each} came by." for each in range(100))))

    async with ingesting(services, quick):
        (ingest,) = await finished(services, tenant, job)

    assert calls == [32, 32, 32, 32, 32, 4]
    assert ingest.taken == ingest.memories == 100
    assert [memory.turn for memory in await held(services, tenant)] == list(range(1, 101))


async def test_an_erased_user_s_turns_leave_nothing(
    services: Services, tenant: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erased in the middle of it: what the worker had in hand is not kept, and the job is gone."""
    job = await services.ingest.begin(tenant, USER, said(*(f"Number {each} came by." for each in range(40))))
    at_work, go_on = asyncio.Event(), asyncio.Event()
    real = services.spaces.embed

    async def embed(_: object, tenant_id: str, texts: Sequence[str]) -> Any:
        embedded = await real(tenant_id, texts)
        at_work.set()
        await go_on.wait()
        return embedded

    monkeypatch.setattr(type(services.spaces), "embed", embed)
    async with ingesting(services):
        await at_work.wait()
        erased = await services.transfer.erase(tenant, USER)
        go_on.set()
        await until(lambda: _is_nowhere(database, tenant))

    assert (erased.erased["ingests"], erased.erased["utterances"]) == (1, 40)
    with pytest.raises(NotFound):
        await services.ingest.status(tenant, job)


async def _is_nowhere(database: Database, tenant: str) -> bool:
    async with database.begin(tenant) as connection:
        counts = [await _count(connection, table) for table in ("users", "memories", "ingests", "utterances")]
    return not any(counts) and not await queue_of(database).find(kind="ingest", tenant_id=tenant)


async def _count(connection: AsyncConnection, table: str) -> int:
    return (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()


async def test_an_import_goes_on_with_what_waited(services: Services, tenant: str, other_tenant: str) -> None:
    job = await services.ingest.begin(tenant, USER, said("One came by."), "train")
    stream = b"".join([line async for line in services.transfer.export(tenant, USER)])
    await services.transfer.import_(other_tenant, stream.splitlines(keepends=True))
    assert (await services.ingest.status(other_tenant, job))[1] == "waiting"

    async with ingesting(services):
        await finished(services, other_tenant, job)

    assert [memory.content for memory in await held(services, other_tenant)] == ["One came by."]


async def test_a_job_that_was_dropped_is_dead(services: Services, tenant: str) -> None:
    job = await services.ingest.begin(tenant, USER, said("One came by."))
    async with services.database.transact_jobs() as statements:
        await statements.fetch("DELETE FROM procrastinate_jobs WHERE args ->> 'tenant_id' = $1", tenant)
    assert (await services.ingest.status(tenant, job))[1] == "dead"
    with pytest.raises(NotFound):
        await services.ingest.status(tenant, uuid4())


async def test_finished_ingests_are_forgotten_some_day(services: Services, tenant: str) -> None:
    done = await services.ingest.begin(tenant, USER, said("One came by."))
    async with ingesting(services):
        await finished(services, tenant, done)
    waits = await services.ingest.begin(tenant, USER, said("Two came by."))

    async with services.database.begin(tenant) as connection:
        before = datetime.now(UTC) + timedelta(minutes=1)
        assert await IngestStore().delete_finished(connection, tenant, before, 10) == 1

    with pytest.raises(NotFound):
        await services.ingest.status(tenant, done)
    assert (await services.ingest.status(tenant, waits))[1] == "waiting"
