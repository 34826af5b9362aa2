"""Retrieval: which of a user's memories may answer a query, by all arms of `app.domain.relevance`.

One statement says what is known of all of them for this query, as packed arrays, and brings them along where they are
few; else a second one reads those that are worth it.
"""

from dataclasses import replace

import numpy as np

from app.domain.extraction import facts_in
from app.domain.memory import Memory
from app.domain.ranking import OUTDATED_LOST, Candidate, newer_first, outdated
from app.domain.relevance import Fusion, Said, arms, best, said_log_odds
from app.domain.times import asks_of_now, spans
from app.store.engine import Statements
from app.store.memories import Asked, Looked, MemoryStore

POOL = 60
"""Memories that are read of those a search has looked at; never fewer than three times the limit."""


class Retrieval:
    """Finds memories in an open transaction."""

    def __init__(self, memories: MemoryStore) -> None:
        self._memories = memories

    async def relevant(self, statements: Statements, asked: Asked, limit: int) -> list[Candidate] | None:
        """The memories most likely to answer a query, each with its log-odds, in no order and more than `limit` where
        there are; None where a memory lacks a vector of a trial's space. Raises StaleSpace where another space
        serves."""
        count = max(POOL, 3 * limit)
        looked = await self._memories.look(statements, asked, nearest=count)
        if looked is None:
            return None
        found = await self._picked(statements, asked, looked, count)
        if len(found) < limit and not looked.is_whole:  # few pass the filters
            looked = await self._memories.look(statements, asked, nearest=count, is_exact=True)
            return None if looked is None else await self._picked(statements, asked, looked, count)
        return found

    async def _picked(self, statements: Statements, asked: Asked, looked: Looked, count: int) -> list[Candidate]:
        weights = Fusion()
        by_arms = arms(looked.field)
        log_odds = by_arms.fused(weights)
        if asked.vector is None:  # nothing but words finds anything
            log_odds = np.where(by_arms.words > 0, log_odds, -np.inf)
        picked = [position for position in best(log_odds, count) if np.isfinite(log_odds[position])]
        places = {looked.id_at(position): position for position in picked}
        found = await self._memories.pick(statements, asked, looked, list(places))
        positions = [places[each.memory.memory_id] for each in found]
        if not looked.is_whole:
            field = looked.field.with_cosines(positions, [each.cosine for each in found])
            log_odds = arms(field).fused(weights)
        said = [Said(each.memory.speaker, each.memory.valid_from, _asks(each.memory)) for each in found]
        past = outdated([each.memory for each in found], facts_in)
        total = log_odds[positions] - OUTDATED_LOST * np.isin(np.arange(len(found)), list(past))
        total += said_log_odds(said, asked.words, spans(asked.words, asked.where.at), weights)
        odds = newer_first(found, total.tolist()) if asks_of_now(asked.words) else total.tolist()
        return [replace(each, log_odds=each_odds) for each, each_odds in zip(found, odds, strict=True)]


def _asks(memory: Memory) -> bool:
    return memory.content.rstrip().endswith("?")
