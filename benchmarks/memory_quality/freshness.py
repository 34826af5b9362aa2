"""Whether the fact that holds comes before those that do not, now and as of a moment, on generated histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.progress import Progress

from app.domain.turns import Utterance
from app.services.keys import DEFAULT_TENANT
from app.services.ranking import SearchRequest
from benchmarks.memory_quality.figures import support_figure
from benchmarks.memory_quality.histories import History, generate
from benchmarks.memory_quality.ingested import Support, support_of
from benchmarks.memory_quality.ours import NOW, House
from benchmarks.memory_quality.wordings import Wording
from benchmarks.report import Figure, Target

COUNT = 500
SEEN = 100
LIMIT = 10


@dataclass(frozen=True)
class Judged:
    """What a search gave, of the memories that name a value of the history at all.

    `is_right`: the first of them names the right value. `is_stale_first`: the first memory of all names another one.
    `is_stale_above`: one that names another comes before every one that names the right value.
    """

    is_right: bool
    is_stale_first: bool
    is_stale_above: bool


@dataclass(frozen=True)
class Outcome:
    """Of one history: what is found now, of its moments how many of how many were right, and what its memories rest
    on."""

    kind: str
    now: Judged
    right: int
    moments: int
    support: Support


async def freshness_figures(house: House, progress: Progress, count: int = COUNT) -> list[Figure]:
    """The figures on held-out wordings, and beside them on those that the rules were written beside."""
    house.clock.at = NOW
    figures: list[Figure] = []
    wordings: Sequence[Wording] = ("held", "seen")
    for wording in wordings:
        is_held = wording == "held"
        outcomes = await _outcomes(house, generate(count if is_held else min(count, SEEN), wording), progress)
        figures += _figures("ours" if is_held else "ours/seen", outcomes, is_target=is_held)
    return figures


def _figures(prefix: str, outcomes: Sequence[Outcome], *, is_target: bool) -> list[Figure]:
    def rate(values: Sequence[bool]) -> float:
        return sum(values) / len(values)

    moments = sum(each.moments for each in outcomes)
    right = sum(each.right for each in outcomes) / moments
    fresh, lasting = (Target("≥", 0.95), Target("≥", 0.98)) if is_target else (None, None)
    note = f"{len(outcomes)} histories"
    first, above = ([each.now.is_stale_first for each in outcomes], [each.now.is_stale_above for each in outcomes])
    figures = [
        Figure(f"{prefix}/freshness/accuracy", rate([each.now.is_right for each in outcomes]), "", fresh, note),
        Figure(f"{prefix}/freshness/stale_first_rate", rate(first), note="an outdated fact is the first memory of all"),
        Figure(f"{prefix}/freshness/stale_above_rate", rate(above), note="an outdated fact is above the current one"),
        Figure(f"{prefix}/as_of/accuracy", right, "", lasting, f"{moments} moments"),
    ]
    for kind in sorted({each.kind for each in outcomes}):
        of_kind = [each.now for each in outcomes if each.kind == kind]
        figures.append(Figure(f"{prefix}/freshness/{kind}/accuracy", rate([each.is_right for each in of_kind])))
        stale = rate([each.is_stale_above for each in of_kind])
        figures.append(Figure(f"{prefix}/freshness/{kind}/stale_above_rate", stale))
    support = sum((each.support for each in outcomes), Support())
    return [*figures, support_figure(f"{prefix}/histories", support)]


async def _outcomes(house: House, histories: Sequence[History], progress: Progress) -> list[Outcome]:
    turns = house.services.turns
    texts = {message.text for history in histories for message in history.messages}
    await house.embedder.embed(sorted(texts | {history.question for history in histories}))
    bar = progress.add_task("histories", total=len(histories))
    outcomes: list[Outcome] = []
    for history in histories:
        said = [(f"day-{day}", [Utterance("user", each.text, each.at)]) for day, each in enumerate(history.messages)]
        for session, utterances in said:
            await turns.take(DEFAULT_TENANT, history.user, utterances, session)
        outcomes.append(await _outcome(house, history, await support_of(house, history.user, said)))
        progress.advance(bar)
    return outcomes


async def _outcome(house: House, history: History, support: Support) -> Outcome:
    others = {value for _, value in history.values} | set(history.wrong)
    now = judged(await _found(house, history, None), history.current, others)
    moments = [
        since + (until - since) / 2 for (since, _), (until, _) in zip(history.values, history.values[1:], strict=False)
    ]
    right = 0
    for moment in moments:
        right += judged(await _found(house, history, moment), history.at(moment), others).is_right
    return Outcome(history.kind, now, right, len(moments), support)


def judged(found: Sequence[str], right: str, values: set[str]) -> Judged:
    """What was found, best first, for the `right` one of some `values`; a memory that names the right one and others is
    right."""
    names = [any(value in content for value in values) for content in found]
    is_right = [right in content for content in found]
    first = next((at for at, does in enumerate(names) if does), None)
    if first is None:
        return Judged(is_right=False, is_stale_first=False, is_stale_above=False)
    is_stale = not is_right[first]
    return Judged(is_right=not is_stale, is_stale_first=is_stale and first == 0, is_stale_above=is_stale)


async def _found(house: House, history: History, as_of: datetime | None) -> list[str]:
    request = SearchRequest(history.question, LIMIT, as_of=as_of)
    found = await house.services.ranking.search(DEFAULT_TENANT, history.user, request)
    return [item.memory.content for item in found.ranked]
