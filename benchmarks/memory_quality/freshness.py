"""Whether the fact that holds comes before those that do not, now and as of a moment, on generated histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.progress import Progress

from app.domain.turns import Utterance
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from benchmarks.memory_quality.histories import History, generate
from benchmarks.memory_quality.ours import House
from benchmarks.memory_quality.wordings import Wording
from benchmarks.report import Figure, Target

COUNT = 500
SEEN = 100
LIMIT = 10


@dataclass(frozen=True)
class Outcome:
    """Of one history: whether the current fact came first, and of its moments how many of how many were right."""

    kind: str
    is_fresh: bool
    right: int
    moments: int


async def freshness_figures(house: House, progress: Progress, count: int = COUNT) -> list[Figure]:
    """The figures on held-out wordings, and beside them on those that the rules were written beside."""
    figures: list[Figure] = []
    wordings: Sequence[Wording] = ("held", "seen")
    for wording in wordings:
        outcomes = await _outcomes(house, generate(count if wording == "held" else min(count, SEEN), wording), progress)
        prefix = "ours" if wording == "held" else "ours/seen"
        is_target = wording == "held"
        fresh = sum(each.is_fresh for each in outcomes) / len(outcomes)
        right = sum(each.right for each in outcomes) / sum(each.moments for each in outcomes)
        note = f"{len(outcomes)} histories"
        figures.append(
            Figure(f"{prefix}/freshness/accuracy", fresh, target=Target("≥", 0.95) if is_target else None, note=note)
        )
        moments = f"{sum(each.moments for each in outcomes)} moments"
        figures.append(
            Figure(f"{prefix}/as_of/accuracy", right, target=Target("≥", 0.98) if is_target else None, note=moments)
        )
        for kind in sorted({each.kind for each in outcomes}):
            of_kind = [each.is_fresh for each in outcomes if each.kind == kind]
            figures.append(Figure(f"{prefix}/freshness/{kind}/accuracy", sum(of_kind) / len(of_kind)))
    return figures


async def _outcomes(house: House, histories: Sequence[History], progress: Progress) -> list[Outcome]:
    turns = house.services.turns
    texts = {message.text for history in histories for message in history.messages}
    await house.embedder.embed(sorted(texts | {history.question for history in histories}))
    bar = progress.add_task("histories", total=len(histories))
    outcomes: list[Outcome] = []
    for history in histories:
        for day, each in enumerate(history.messages):
            message = Utterance("user", each.text, each.at)
            await turns.take(DEFAULT_TENANT, history.user, [message], f"day-{day}")
        outcomes.append(await _outcome(house, history))
        progress.advance(bar)
    return outcomes


async def _outcome(house: House, history: History) -> Outcome:
    others = {value for _, value in history.values} | set(history.wrong)
    is_fresh = await _is_first(house, history, history.current, others, None)
    right = 0
    moments = [
        since + (until - since) / 2 for (since, _), (until, _) in zip(history.values, history.values[1:], strict=False)
    ]
    for moment in moments:
        right += await _is_first(house, history, history.at(moment), others, moment)
    return Outcome(history.kind, is_fresh, right, len(moments))


async def _is_first(house: House, history: History, right: str, others: set[str], as_of: datetime | None) -> bool:
    """Whether the first memory found that names any of the values names the right one."""
    request = SearchRequest(history.question, LIMIT, as_of=as_of)
    found = await house.services.ranking.search(DEFAULT_TENANT, history.user, request)
    for item in found.ranked:
        if any(other in item.memory.content for other in others):
            return right in item.memory.content
    return False
