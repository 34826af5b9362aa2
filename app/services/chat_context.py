"""What is known of a user for one chat."""

from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from uuid import UUID

from app.domain.chat import Chat
from app.domain.chat_context import NOTHING, STANDING, Context, Known, Meant, make_context
from app.domain.persona import describe, faded
from app.domain.ranking import Weights, rank
from app.ports import Clock, Tokenizer
from app.services.catalogues import CatalogueService
from app.services.ranking import RankingService
from app.services.recall_log import asked_of, shown_of
from app.services.spaces import Spaces, follows_switch
from app.store.engine import Database
from app.store.memories import MemoryStore, SearchFilter
from app.store.users import UserStore

SEARCHED = 20
"""The limit of the search; it ranks three times as many."""

STANDING_MEMORIES = 40
"""Most of the memories that hold whatever is asked: the newest."""

MAX_QUERY = 2_000
"""Characters of a message that memories are searched for; its end counts, where a long text is asked about."""


@dataclass(frozen=True)
class ChatMemory:
    """What memory adds to a chat, since when its user is known (None: not yet, or nobody asks anything), and under
    which id it is written down, where it is."""

    context: Context = NOTHING
    known_since: datetime | None = None
    recall_id: UUID | None = None


@dataclass(frozen=True)
class ChatContextService:
    """Finds what memory adds to a chat: one embedding, one transaction, nothing that a language model is asked for."""

    database: Database
    ranking: RankingService
    catalogues: CatalogueService
    memories: MemoryStore
    users: UserStore
    tokenizer: Tokenizer
    clock: Clock
    _: KW_ONLY
    token_budget: int
    facet_half_life_days: float

    @property
    def spaces(self) -> Spaces:
        """Where what is asked is embedded."""
        return self.ranking.spaces

    @follows_switch
    async def find(self, tenant_id: str, user_id: str, chat: Chat, meant: Meant, *, is_recorded: bool) -> ChatMemory:
        """What to add to a chat whose user means something, and whether that is written down. Raises StoreUnavailable;
        without an embedder, words find memories."""
        turn = chat.turn
        if turn is None:
            return ChatMemory()
        asked = (meant.sentence or chat.messages[turn].text)[-MAX_QUERY:].replace("\0", " ")
        now = self.clock.now()
        settings = await self.catalogues.settings(tenant_id)
        query = await self.ranking.read(tenant_id, user_id, asked or " ")
        async with self.database.transact(tenant_id) as statements:
            candidates = await self.ranking.relevant(
                statements, tenant_id, user_id, query, limit=SEARCHED, where=SearchFilter(now)
            )
            types = [kind.value for kind in STANDING]
            standing = await self.memories.newest(
                statements, tenant_id, user_id, types=types, at=now, limit=STANDING_MEMORIES
            )
            facets, known_since = await self.users.facets(statements, tenant_id, user_id)
        weights = settings.weights or Weights()
        recalled = rank(candidates.found, weights, now, SEARCHED)
        facets = faded(facets, now, self.facet_half_life_days)
        known = Known(describe(facets), standing[::-1], recalled, meant)
        context = make_context(chat, known, self.token_budget, self.tokenizer.count)
        recall_id = None
        if is_recorded and context.memory_ids:
            ranked = {item.memory.memory_id: item for item in recalled}
            recall_id = self.ranking.recalls.add(
                tenant_id,
                user_id,
                "chat",
                query.text,
                [shown_of(ranked.get(memory_id, memory_id)) for memory_id in context.memory_ids],
                space=candidates.space,
                is_degraded=not candidates.has_vector,
                asked=asked_of(SEARCHED, None, None, weights, candidates.fusion, is_reranked=False),
                as_of=now,
            )
        return ChatMemory(context, known_since, recall_id)
