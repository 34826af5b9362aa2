"""Retrieval: which of a user's memories may answer a query, by all arms of `app.domain.relevance`.

One statement says what is known of all of them for this query, as packed arrays, and brings them along where they are
few; else a second one reads those that are worth it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.domain.attributes import AttributeVectors, is_of_another
from app.domain.extraction import facts_in
from app.domain.memory import Memory
from app.domain.ranking import OUTDATED_LOST, Candidate, newer_first, outdated, set_right
from app.domain.relevance import DEFAULT_FUSION, Fusion, Said, arms, best, said_arms, weights_of, words_of
from app.domain.times import asks_of_now, closenesses, spans
from app.store.engine import Statements
from app.store.memories import Asked, Looked, MemoryStore

POOL = 60
"""Memories that are read of those a search has looked at; never fewer than three times the limit."""


class Retrieval:
    """Finds memories in an open transaction."""

    def __init__(
        self,
        memories: MemoryStore,
        weights: Fusion = DEFAULT_FUSION,
        attributes: AttributeVectors | None = None,
    ) -> None:
        """`attributes`: the examples of attributes in the space that is asked; None: no question is recognised."""
        self._memories = memories
        self._weights = weights
        self._attributes = attributes

    async def relevant(self, statements: Statements, asked: Asked, limit: int) -> list[Candidate] | None:
        """The memories most likely to answer a query, each with its log-odds, in no order and more than `limit` where
        there are; None where a memory lacks a vector of a trial's space. Raises StaleSpace where another space
        serves."""
        count = max(POOL, 3 * limit)
        asked = replace(asked, spans=spans(asked.words, asked.where.at))
        looked = await self._memories.look(statements, asked, nearest=count)
        if looked is None:
            return None
        found = await self._picked(statements, asked, looked, count)
        if len(found) < limit and not looked.is_whole:  # few pass the filters
            looked = await self._memories.look(statements, asked, nearest=count, is_exact=True)
            return None if looked is None else await self._picked(statements, asked, looked, count)
        return found

    async def _picked(self, statements: Statements, asked: Asked, looked: Looked, count: int) -> list[Candidate]:
        weights = self._weights
        words = words_of(looked.field)
        by_arms = arms(looked.field, words)
        likely = by_arms.fused(weights)
        if looked.field.hours is not None:  # whatever else speaks for others: of the time asked for, some are read
            likely += weights.moment * closenesses(looked.field.hours, asked.spans)
        if asked.vector is None:  # nothing but words finds anything
            likely[by_arms.words <= 0] = -np.inf
        picked = [position for position in best(likely, count) if np.isfinite(likely[position])]
        places = {looked.id_at(position): position for position in picked}
        found = await self._memories.pick(statements, asked, looked, list(places))
        positions = [places[each.memory.memory_id] for each in found]
        if not looked.is_whole:
            by_arms = arms(looked.field.with_cosines(positions, [each.cosine for each in found]), words)
        log_odds = by_arms.fused(weights)
        said = [Said(each.memory.speaker, each.memory.valid_from, _asks(each.memory)) for each in found]
        past = outdated([each.memory for each in found], facts_in)
        total = log_odds[positions] - OUTDATED_LOST * np.isin(np.arange(len(found)), list(past))
        beside = said_arms(said, asked.words, asked.spans)
        total += beside @ weights_of(weights)[-beside.shape[1] :]
        odds: list[float] = total.tolist()
        telling = self._telling(asked, found)
        if telling is not None or asks_of_now(asked.words):
            odds = newer_first(found, odds, telling)
        told = np.hstack([by_arms.at(positions), beside])
        return [
            replace(each, lexical=min(1.0, arm[0]), log_odds=each_odds, arms=tuple(arm))
            for each, each_odds, arm in zip(found, odds, told.tolist(), strict=True)
        ]

    def _telling(self, asked: Asked, found: Sequence[Candidate]) -> list[bool] | None:
        """Which memories tell the attribute that is asked for; None where it is none that is known."""
        if self._attributes is None or asked.vector is None or not found:
            return None
        name = self._attributes.asked_for(asked.vector)
        if name is None:
            return None
        vectors = np.asarray([each.vector for each in found])
        by_rule = [any(fact.attribute == name for fact in facts_in(each.memory.content)) for each in found]
        own = np.array([not is_of_another(each.memory.content) for each in found])
        tells: list[bool] = (self._attributes.told(name, vectors) & own | np.array(by_rule)).tolist()
        if not any(tells):
            return None
        corrects: list[bool] = self._attributes.corrects(vectors).tolist()
        for correction, wrong in set_right([each.memory for each in found], tells, corrects).items():
            tells[correction] = tells[correction] or tells[wrong]
        return tells


def _asks(memory: Memory) -> bool:
    """Whether it is a turn that asks something: what stands alone was kept for what it says."""
    return memory.session is not None and memory.content.rstrip().endswith("?")
