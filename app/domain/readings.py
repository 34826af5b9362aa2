"""How the local SLM reads an input: it fills what the input leaves open with what the user said in the
conversation and before, chose before, what their peers chose, and what is common; each reading carries its evidence.

Scores are log-odds by construction: sums of weights of evidence. The constants are a prior that was set
by hand on invented dialogues; the calibration fitted on a tenant's own outcomes corrects their scale.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from app.domain import wording
from app.domain.answers import content_stems, values_told
from app.domain.catalogue import Catalogue, SlotValues, phrase
from app.domain.hypotheses import HypothesisContext, PastChoice, Reading
from app.domain.memory import MemoryType
from app.domain.ranking import Ranked
from app.domain.redaction import redact

MIN_MEMORY_SIMILARITY = 0.25
"""A memory further from the input than this is no reading of it by itself."""

MIN_VALUE_SIMILARITY = 0.05
"""A value is not carried over from a memory further from the input than this: what someone deploys with says
nothing about their dinner."""

MIN_CHOICE_SIMILARITY = 0.55
"""An earlier choice counts when its input was at least this near (cosine)."""

CHOSEN = "selection"
"""Source of the memories that earlier choices left; the choices themselves are read, with more care."""

NEVER_CHOSEN = 0.5
NEVER_REFUSED = 2.0
"""What a reading counts that was never chosen, or refused: what is meant again goes by the counts (a Dirichlet prior).
People come back to few of the many things an input may mean, and what they refuse they often mean the next time."""

RECENT_TURNS = 12
"""Messages of the conversation that are read with the input."""

MAX_VALUES = 3
"""Values of one slot named in one question."""

VALUE_SEPARATOR = ", "
"""Between several values of one slot of a reading."""

MAX_SLOTS = 4
"""Slots filled in one question: more make a sentence that nobody reads."""

# In the user's own voice; a quotation of the memory follows.
_FRAMES: Mapping[MemoryType, tuple[str, float]] = {
    MemoryType.GOAL: ("towards my goal", 0.3),
    MemoryType.ARTIFACT: ("building on", 0.2),
    MemoryType.PREFERENCE: ("the way I like it:", 0.1),
    MemoryType.CONSTRAINT: ("keeping to", 0.1),
    MemoryType.STYLE: ("in my style:", -0.2),
    MemoryType.HISTORY: ("following on from", 0.0),
    MemoryType.PROFILE: ("keeping in mind", -0.2),
}


@dataclass(frozen=True)
class _Known:
    """A slot value the user named, what it weighs (0..1), where they said so and when; no memory where it
    was said in this very conversation."""

    slot: str
    value: str
    weight: float
    said: str
    at: datetime
    memory_id: UUID | None = None


@dataclass(frozen=True)
class _Stances:
    """What the user's memories say about values: `known` ones, weightiest first, and the `denied`."""

    known: Sequence[_Known]
    denied: frozenset[str]


def local_readings(context: HypothesisContext) -> list[Reading]:
    """All readings the evidence supports, best first, no two with the same meaning. Where they are fewer than
    `count`, five general ones join them."""
    context = replace(context, past_choices=[_by_values(each, context.catalogue) for each in context.past_choices])
    said = context.catalogue.values_in(context.input_text)
    stances = _stances(context, said)
    readings = [
        *_from_known_values(context, stances.known),
        *_from_choices(context, said, stances.denied),
        *_from_memories(context, {item.memory_id for item in stances.known if item.memory_id}),
        *_from_cohort(context, said, stances.denied),
        *_from_options(context, said, stances),
    ]
    if len({wording.normalise(reading.question) for reading in readings}) < context.count:
        readings += _general_readings(context)
    judged = [_with_history(reading, context.past_choices) for reading in readings]
    judged.sort(key=lambda reading: -reading.score)
    unique: dict[object, Reading] = {}
    for reading in judged:
        # Two wordings of one filling are one meaning, and would share its probability between them.
        unique.setdefault(frozenset(reading.slots.items()) or wording.normalise(reading.question), reading)
    return list(unique.values())


def _relevant_slots(context: HypothesisContext) -> Sequence[str]:
    return context.intent.intent.slots if context.intent else tuple(context.catalogue.slots)


def _stances(context: HypothesisContext, said: SlotValues) -> _Stances:
    """What the memories and the conversation say about slots the input leaves open. What was denied last is
    not offered."""
    slots = context.catalogue.slots
    relevant = [slot for slot in _relevant_slots(context) if slot not in said and slots[slot].is_carried]
    nearest = MIN_VALUE_SIMILARITY if context.intent else MIN_MEMORY_SIMILARITY
    affirmed_at: dict[str, datetime] = {}
    denied_at: dict[str, datetime] = {}
    found: dict[str, _Known] = {}
    for ranked in context.memories:
        memory = ranked.memory
        affirmed, denied = wording.affirmed_and_denied(memory.content)
        for value in _all_values(context.catalogue.values_in(denied)):
            denied_at[value] = max(memory.valid_from, denied_at.get(value, memory.valid_from))
        values = context.catalogue.values_in(affirmed)
        for value in _all_values(values):
            affirmed_at[value] = max(memory.valid_from, affirmed_at.get(value, memory.valid_from))
        if ranked.similarity < nearest:
            continue
        weight = memory.confidence * (0.4 + 0.3 * ranked.similarity + 0.3 * ranked.recency)
        for slot in relevant:
            for value in values.get(slot, ()):
                if value not in found or found[value].weight < weight:
                    found[value] = _Known(slot, value, weight, memory.content, memory.valid_from, memory.memory_id)
    for place, turn in enumerate(context.conversation[-RECENT_TURNS:]):
        at = context.now + timedelta(microseconds=place)
        affirmed, denied = wording.affirmed_and_denied(turn.content if turn.role == "user" else "")
        values = context.catalogue.values_in(affirmed)
        denied_at.update(dict.fromkeys(_all_values(context.catalogue.values_in(denied)), at))
        affirmed_at.update(dict.fromkeys(_all_values(values), at))
        found.update(
            {value: _Known(slot, value, 1.0, turn.content, at) for slot in relevant for value in values.get(slot, ())}
        )
    gone = frozenset(value for value, at in denied_at.items() if at >= affirmed_at.get(value, at))
    known = sorted(
        (item for item in found.values() if item.value not in gone),
        key=lambda item: (-item.weight, -item.at.timestamp(), item.value),
    )
    return _Stances(known, gone)


def _all_values(values: SlotValues) -> list[str]:
    return [value for each in values.values() for value in each]


def _from_known_values(context: HypothesisContext, known: Sequence[_Known]) -> list[Reading]:
    """The best-supported filling of the open slots, and the runner-up of its most disputed slot.

    Values of one slot are named together when one memory names them together.
    """
    best: dict[str, list[_Known]] = {}
    rivals: list[_Known] = []
    for item in known:
        chosen = best.setdefault(item.slot, [])
        is_companion = chosen and chosen[0].said == item.said
        if not chosen or (is_companion and len(chosen) < MAX_VALUES):
            chosen.append(item)
        else:
            rivals.append(item)
    if not best:
        return []
    readings = [_filled(context, best, 0.0)]
    for rival in rivals[:1]:
        readings.append(
            _filled(context, {**best, rival.slot: [rival]}, -0.7 - (best[rival.slot][0].weight - rival.weight))
        )
    return readings


def _filled(context: HypothesisContext, filling: Mapping[str, Sequence[_Known]], handicap: float) -> Reading:
    order = [slot for slot in _relevant_slots(context) if slot in filling][:MAX_SLOTS]
    items = [item for slot in order for item in filling[slot]]
    sources = {item.said: item.memory_id for item in items}
    fillers = _fillers(context.catalogue, {slot: [item.value for item in filling[slot]] for slot in order})
    said = " and ".join(f"“{_quoted(each)}”" for each in list(sources)[:2])
    support = sum(item.weight for item in items) / len(items)
    nearness = 0.8 * (context.intent.similarity - 0.4) if context.intent else -0.3
    return Reading(
        question=f"{_echo(context)} {wording.addressed(fillers)}?",
        request=f"{_own_voice(context)} {fillers}",
        rationale=f"You said {said}.",
        score=-0.6 + 0.5 * min(3, len(order)) + support + nearness + handicap,
        origin="memory",
        slots={slot: VALUE_SEPARATOR.join(item.value for item in filling[slot]) for slot in order},
        evidence=tuple(memory_id for memory_id in sources.values() if memory_id),
    )


def _from_memories(context: HypothesisContext, named: set[UUID]) -> list[Reading]:
    """A reading for each of the memories that read the input best, quoting it."""
    near = [
        (_memory_score(ranked, is_named=ranked.memory.memory_id in named), ranked)
        for ranked in context.memories
        if ranked.similarity >= MIN_MEMORY_SIMILARITY and ranked.memory.source != CHOSEN
    ]
    near.sort(key=lambda pair: -pair[0])
    echo, own_voice = _echo(context), _own_voice(context)
    readings: list[Reading] = []
    for score, ranked in near[: 2 * context.count]:
        frame, _ = _FRAMES[ranked.memory.type]
        quoted = f"“{_quoted(ranked.memory.content)}”"
        readings.append(
            Reading(
                question=f"{echo}, {wording.addressed(frame)} {quoted}?",
                request=f"{own_voice}, {frame} {quoted}",
                rationale=f"Near what you told me ({ranked.memory.type.lower()}, relevance {ranked.similarity:.2f}).",
                score=score,
                origin="memory",
                evidence=(ranked.memory.memory_id,),
            )
        )
    return readings


def _memory_score(ranked: Ranked, *, is_named: bool) -> float:
    """What is named by a filling already says less when it is said again."""
    _, bonus = _FRAMES[ranked.memory.type]
    return -1.1 + 2.0 * ranked.similarity + 0.3 * ranked.recency + bonus - 0.8 * is_named


def _from_choices(context: HypothesisContext, said: SlotValues, denied: frozenset[str]) -> list[Reading]:
    """What the user chose for near inputs, worded for this one."""
    readings: list[Reading] = []
    for choice in context.past_choices:
        if not choice.is_chosen or choice.outcome == "kept" or choice.similarity < MIN_CHOICE_SIMILARITY:
            continue
        before = _quoted(choice.input_text, 8)
        fillers = _open_fillers(context, choice.slots, said, denied)
        if fillers:
            clause, asked = f" {fillers}", f" {wording.addressed(fillers)}"
        elif choice.answer and not choice.slots:
            clause = asked = f": “{_quoted(choice.answer)}”"
        else:
            continue
        readings.append(
            Reading(
                question=f"{_echo(context)}{asked}, as you chose for “{before}”?",
                request=f"{_own_voice(context)}{clause}",
                rationale=f"You chose this for “{before}” (similarity {choice.similarity:.2f}).",
                score=-0.8 + 1.2 * choice.similarity,
                origin="choice",
                slots=dict(choice.slots),
                evidence=choice.evidence,
            )
        )
    return readings


def _by_values(choice: PastChoice, catalogue: Catalogue) -> PastChoice:
    """A choice in the user's own words that name values of slots and nothing else, as a choice of these values."""
    said, _ = values_told(choice.answer, catalogue)
    if choice.slots or not content_stems(choice.answer) <= content_stems(" ".join(_all_values(said))):
        return choice
    return replace(choice, slots={slot: VALUE_SEPARATOR.join(values) for slot, values in said.items()})


def _from_cohort(context: HypothesisContext, said: SlotValues, denied: frozenset[str]) -> list[Reading]:
    """What at least k other users chose for near inputs; only vocabulary, never their words."""
    readings: list[Reading] = []
    for choice in context.cohort_choices:
        values = [(slot, value) for slot, joined in choice.slots.items() for value in joined.split(VALUE_SEPARATOR)]
        fillers = _open_fillers(context, choice.slots, said, denied)
        if not fillers or not all(context.catalogue.is_known(slot, value) for slot, value in values):
            continue
        readings.append(
            Reading(
                question=f"{_echo(context)} {wording.addressed(fillers)}?",
                request=f"{_own_voice(context)} {fillers}",
                rationale=f"{choice.users} others chose this for similar requests.",
                score=-0.6 + 1.5 * choice.share,
                origin="cohort",
                slots=dict(choice.slots),
            )
        )
    return readings


def _open_fillers(
    context: HypothesisContext, slots: Mapping[str, str], said: SlotValues, denied: frozenset[str]
) -> str:
    """`slots` worded, but for those the input fills itself; empty when nothing is left or a value was denied."""
    values = {slot: joined.split(VALUE_SEPARATOR) for slot, joined in slots.items() if slot in context.catalogue.slots}
    if any(value in denied for each in values.values() for value in each):
        return ""
    return _fillers(context.catalogue, {slot: each for slot, each in values.items() if slot not in said})


_BACKED = "a part of it is what you told me"
_UNBACKED = "nothing you told me speaks for or against it"


def _from_options(context: HypothesisContext, said: SlotValues, stances: _Stances) -> list[Reading]:
    """The common readings of the intent; without an intent, the general ones."""
    if context.intent is None:
        return _general_readings(context)
    held = {item.slot for item in stances.known}
    readings: list[Reading] = []
    for index, option in enumerate(context.intent.intent.options):
        if stances.denied & set(option.slots.values()):
            continue
        if any(slot in said and value not in said[slot] for slot, value in option.slots.items()):
            continue
        is_contested = any(slot in held for slot in option.slots)
        is_backed = any(item.value in option.slots.values() for item in stances.known)
        readings.append(
            Reading(
                question=f"{wording.addressed(option.text)}?",
                request=option.text,
                rationale=f"A common reading of such a request; {_BACKED if is_backed else _UNBACKED}.",
                score=-0.5 - 0.3 * index + 0.8 * (context.intent.similarity - 0.4) - 0.8 * is_contested,
                origin="option",
                slots=dict(option.slots),
            )
        )
    return readings


_GENERAL = (
    ("an explanation, with the options there are", "Understanding comes first in most open requests."),
    ("a finished result to use as it is", "Many open requests want the finished thing."),
    ("a plan, step by step", "Many open requests want a way to start."),
    ("a few short ideas to choose from", "Many open requests want something to react to."),
    ("questions first, to find out what matters", "Nothing is known that would narrow this down."),
)


def _general_readings(context: HypothesisContext) -> list[Reading]:
    return [
        Reading(
            question=f"{_echo(context)}: {text}?",
            request=f"{_own_voice(context)}: {text}",
            rationale=why,
            score=-1.0 - 0.2 * index,
            origin="option",
        )
        for index, (text, why) in enumerate(_GENERAL)
    ]


def told_reading(context: HypothesisContext, said: SlotValues, answer: str) -> Reading:
    """The input as an answer to its question has filled it: with these values of slots."""
    fillers = _fillers(context.catalogue, said)
    return Reading(
        question=f"{_echo(context)} {wording.addressed(fillers)}?",
        request=f"{_own_voice(context)} {fillers}",
        rationale=f"You answered “{_quoted(answer)}”.",
        score=0.0,
        origin="answer",
        slots={slot: VALUE_SEPARATOR.join(values) for slot, values in said.items()},
    )


def _with_history(reading: Reading, choices: Sequence[PastChoice]) -> Reading:
    """`reading` with the weight of what the user chose and turned down for near inputs."""
    chosen = sum(c.weight * c.similarity**2 for c in choices if c.is_chosen and _is_same(reading, c))
    refused = sum(c.weight * c.similarity**2 for c in choices if not c.is_chosen and _is_same(reading, c))
    gain = math.log1p(chosen / NEVER_CHOSEN) - math.log1p(refused / NEVER_REFUSED)
    return reading if gain == 0 else replace(reading, score=reading.score + gain)


def _is_same(reading: Reading, choice: PastChoice) -> bool:
    if choice.similarity < MIN_CHOICE_SIMILARITY:
        return False
    if reading.slots or choice.slots:
        return dict(reading.slots) == dict(choice.slots)
    if reading.evidence or choice.evidence:
        return set(reading.evidence) == set(choice.evidence)
    return bool(choice.request) and wording.normalise(reading.request) == wording.normalise(choice.request)


def _fillers(catalogue: Catalogue, slots: Mapping[str, Sequence[str]]) -> str:
    return " ".join(phrase(catalogue, slot, values) for slot, values in slots.items())


_BARE_OBJECT = re.compile(r"(?:Build|Create|Make|Write|Design|Develop|Draft|Plan) (?=(\w))")


def _echo(context: HypothesisContext) -> str:
    """The input as a request, with an article where a thing is named without one: `Build an API`."""
    line = context.catalogue.spelled(wording.as_request(context.input_text))
    opening = _BARE_OBJECT.match(line)
    if opening is None:
        return line
    rest = line[opening.end() :]
    things = [value for slot in ("object", "form") for value in context.catalogue.values_in(rest).get(slot, ())]
    thing = next((value for value in things if rest.startswith(value)), None)
    if thing is None or thing.endswith(("s", "data")) or rest[len(thing) :].startswith("s"):
        return line
    return f"{opening.group()}{'an' if thing[0] in 'AEIOUaeiou' and not thing.startswith('one') else 'a'} {rest}"


def _own_voice(context: HypothesisContext) -> str:
    return wording.snippet(context.input_text, 40).rstrip("?") or context.input_text.strip()


def _quoted(text: str, max_words: int = 16) -> str:
    return wording.snippet(redact(text).text, max_words)
