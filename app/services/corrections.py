"""Corrections: what a user says was wrong finds the memory that it sets right."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.domain.facts import correction_in
from app.domain.memory import STATES, Memory
from app.domain.turns import corrected
from app.services.gate import Candidate
from app.services.memories import MemoryService
from app.services.retrieval import Retrieval
from app.services.spaces import Spaces, follows_switch
from app.store.memories import Asked, SearchFilter

KNOWN = 20
"""Memories, at least, among which a correction looks for what it sets right."""


@dataclass(frozen=True)
class Corrections:
    """The use case about corrections."""

    memories: MemoryService

    @property
    def spaces(self) -> Spaces:
        """Where what is said is embedded."""
        return self.memories.spaces

    async def set_right(
        self, tenant_id: str, user_id: str, said: str, said_at: datetime, source: str
    ) -> Candidate | None:
        """What a user's words make of the memory that they set right, as it comes to the gate; None where they set
        nothing right. Raises as `Spaces.embed`."""
        correction = correction_in(said)
        if correction is None:
            return None
        known = await self._found(tenant_id, user_id, correction.old)
        draft = corrected(correction, list(known.values()), said, said_at, source)
        if draft is None or draft.replaces is None:
            return None
        return Candidate(draft, [known[draft.replaces].content, said])

    @follows_switch
    async def _found(self, tenant_id: str, user_id: str, wrong: str) -> Mapping[UUID, Memory]:
        """The memories that a wrong value may be in, by id."""
        embedded = await self.spaces.embed(tenant_id, [wrong])
        where = SearchFilter(self.memories.clock.now(), sorted(STATES))
        asked = Asked(tenant_id, user_id, wrong, embedded.vectors[0], embedded.space, where)
        async with self.memories.database.transact(tenant_id) as statements:
            found = await Retrieval(self.memories.memories).relevant(statements, asked, KNOWN) or []
        return {each.memory.memory_id: each.memory for each in found}
