"""Turns: what was said in a conversation becomes memories, in order."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import ModelUnavailable
from app.domain.turns import (
    HEARD,
    Stated,
    Utterance,
    batches,
    correction_of,
    draft_of,
    draft_of_statement,
    heard_before,
    is_worth_taking,
    pieces_of,
    source_of,
    stated_in,
    with_facts,
)
from app.ports import SLM
from app.services.corrections import Corrections
from app.services.gate import Candidate, GateService
from app.services.memories import Added, MemoryService

log = structlog.get_logger(__name__)

TURNS = Counter("embed_service_turns_total", "Turns of conversations, by what became of them.", ["outcome"])


@dataclass(frozen=True)
class Taken:
    """What became of some turns: how many were taken and how many passed over, how many memories are new, how many
    were known, how many were superseded, and how many statements were set apart."""

    turns: int = 0
    passed_over: int = 0
    memories: int = 0
    deduplicated: int = 0
    superseded: int = 0
    set_apart: int = 0

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(
            self.turns + other.turns,
            self.passed_over + other.passed_over,
            self.memories + other.memories,
            self.deduplicated + other.deduplicated,
            self.superseded + other.superseded,
            self.set_apart + other.set_apart,
        )


Within = Callable[[AsyncConnection, Taken], Awaitable[None]]
"""What else is written in the transaction that remembers some turns."""


@dataclass(frozen=True)
class TurnService:
    """The use case about conversations. `slm`: what finds the statements in turns; None: plain rules do."""

    memories: MemoryService
    gate: GateService
    slm: SLM | None = None

    @property
    def corrections(self) -> Corrections:
        """What finds the memories that are set right."""
        return Corrections(self.memories)

    async def take(
        self,
        tenant_id: str,
        user_id: str,
        said: Sequence[Utterance],
        session: str,
        first_turn: int = 1,
        *,
        known_since: datetime | None = None,
        within: Within | None = None,
    ) -> Taken:
        """Remember turns with what they tell, batch after batch (`app.domain.turns.batches`), each in a transaction of
        its own. Raises as `MemoryService.add`, and what `within` raises: then its batch is not remembered."""
        taken, turn = Taken(), first_turn
        for batch in batches(said):
            taken += await self._take(tenant_id, user_id, batch, session, turn, known_since, within)
            turn += len(batch)
        return taken

    async def _take(
        self,
        tenant_id: str,
        user_id: str,
        batch: Sequence[Utterance],
        session: str,
        first_turn: int,
        known_since: datetime | None,
        within: Within | None,
    ) -> Taken:
        worth = [(turn, each) for turn, each in enumerate(batch, first_turn) if is_worth_taking(each)]
        turns, said = [turn for turn, _ in worth], [each for _, each in worth]
        passed_over = len(batch) - len(said)
        drafts = [draft_of(each, session, turn) for each, turn in zip(said, turns, strict=True)]
        drafts += [piece for each, turn in zip(said, turns, strict=True) for piece in pieces_of(each, session, turn)]
        found = await self._stated(said)
        earlier: Sequence[str] = ()
        if first_turn > 1 and any(each.position < HEARD for each in found):
            earlier = await self._earlier(tenant_id, user_id, session, first_turn)
        stated = [
            Candidate(
                draft_of_statement(each, said[each.position], session, turns[each.position]),
                heard_before(said, each.position, earlier),
            )
            for each in found
        ]
        for each, turn in zip(said, turns, strict=True):
            if correction_of(each) is not None:
                source = source_of(session, turn)
                right = await self.corrections.set_right(tenant_id, user_id, each.content, each.said_at, source)
                stated += [right] if right is not None else []
        passed = await self.gate.passed(tenant_id, user_id, stated)
        drafts += passed.kept
        taken = Taken(len(batch), passed_over, set_apart=len(passed.set_apart))

        async def also(connection: AsyncConnection, added: Added) -> None:
            nonlocal taken
            new = len(added.ids) - added.deduplicated
            counts = new, added.deduplicated, len(added.superseded), len(passed.set_apart)
            taken = Taken(len(batch), passed_over, *counts)
            await self.gate.set_apart(connection, tenant_id, user_id, passed, self.memories.clock.now())
            if within is not None:
                await within(connection, taken)

        await self.memories.add(tenant_id, user_id, drafts, known_since=known_since, within=also)
        TURNS.labels("taken").inc(len(batch) - passed_over)
        TURNS.labels("passed_over").inc(passed_over)
        log.info(
            "turns_ingested",
            turns=len(batch),
            memories=taken.memories,
            superseded=taken.superseded,
            set_apart=taken.set_apart,
        )
        return taken

    async def _earlier(self, tenant_id: str, user_id: str, session: str, first_turn: int) -> Sequence[str]:
        """What was said in a conversation just before some turns of it."""
        async with self.memories.database.begin(tenant_id) as connection:
            store = self.memories.memories
            return await store.turns_before(connection, tenant_id, user_id, session, first_turn, HEARD)

    async def _stated(self, said: Sequence[Utterance]) -> Sequence[Stated]:
        """What users state in turns: what the model finds with what rules are sure of, or what rules find alone."""
        by_rules = stated_in(said)
        if self.slm is None or self.slm.prompt_version is None:
            return by_rules
        try:
            found = await self.slm.extract(said)
        except ModelUnavailable as error:
            log.warning("extraction_degraded", cause=error.cause, reason=str(error))
            return by_rules
        return with_facts(found, by_rules)
