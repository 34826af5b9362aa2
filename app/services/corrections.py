"""Corrections: what a user says was wrong finds the memory that it sets right."""

from dataclasses import dataclass
from datetime import datetime

from app.domain.facts import correction_in
from app.domain.memory import STATES
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
        return None if correction_in(said) is None else await self._found(tenant_id, user_id, said, said_at, source)

    @follows_switch
    async def _found(self, tenant_id: str, user_id: str, said: str, said_at: datetime, source: str) -> Candidate | None:
        correction = correction_in(said)
        if correction is None:
            return None
        embedded = await self.memories.spaces.embed(tenant_id, [correction.old])
        where = SearchFilter(self.memories.clock.now(), sorted(STATES))
        asked = Asked(tenant_id, user_id, correction.old, embedded.vectors[0], embedded.space, where)
        async with self.memories.database.transact(tenant_id) as statements:
            found = await Retrieval(self.memories.memories).relevant(statements, asked, KNOWN) or []
        known = {each.memory.memory_id: each.memory for each in found}
        draft = corrected(correction, list(known.values()), said, said_at, source)
        if draft is None or draft.replaces is None:
            return None
        return Candidate(draft, [known[draft.replaces].content, said])
