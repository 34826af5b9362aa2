"""How the local SLM reads an input: it fills what the input leaves open with what the user said before,
chose before, what their peers chose, and what is common; each reading carries its evidence.

Scores are log-odds by construction: sums of weights of evidence. The constants are a prior that was set
by hand on invented dialogues; the calibration fitted on a tenant's own outcomes corrects their scale.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from app.domain import wording
from app.domain.catalogue import Catalogue, SlotValues, phrase
from app.domain.hypotheses import HypothesisContext, PastChoice, Reading
from app.domain.memory import MemoryType
from app.domain.ranking import Ranked
from app.domain.redaction import redact

MIN_MEMORY_SIMILARITY = 0.25
"""A memory further from the input than this is no reading of it by itself."""

MIN_CHOICE_SIMILARITY = 0.55
"""An earlier choice counts when its input was at least this near (cosine)."""

MAX_VALUES = 3
"""Values of one slot named in one question."""

_FRAMES: Mapping[MemoryType, tuple[str, float]] = {
    MemoryType.GOAL: ("towards your goal “{}”", 0.3),
    MemoryType.ARTIFACT: ("building on “{}”", 0.2),
    MemoryType.PREFERENCE: ("the way you like it: “{}”", 0.1),
    MemoryType.CONSTRAINT: ("keeping to “{}”", 0.1),
    MemoryType.STYLE: ("in your style: “{}”", -0.2),
    MemoryType.HISTORY: ("following on from “{}”", 0.0),
    MemoryType.PROFILE: ("for someone who said “{}”", -0.2),
}


@dataclass(frozen=True)
class _Known:
    """A slot value the user named, what it weighs (0..1) and the memory that says so."""

    slot: str
    value: str
    weight: float
    ranked: Ranked


def local_readings(context: HypothesisContext) -> list[Reading]:
    """All readings the evidence supports, best first, no two with the same question."""
    said = context.catalogue.values_in(context.input_text)
    known = _known_values(context, said)
    readings = [
        *_from_known_values(context, known),
        *_from_choices(context, said),
        *_from_memories(context, {item.ranked.memory.memory_id for item in known}),
        *_from_cohort(context, said),
        *_from_options(context, said, known),
    ]
    judged = [_with_history(reading, context.past_choices) for reading in readings]
    judged.sort(key=lambda reading: -reading.score)
    unique: dict[str, Reading] = {}
    for reading in judged:
        unique.setdefault(wording.normalise(reading.question), reading)
    if len(unique) < context.count:
        for reading in _open_questions(context):
            unique.setdefault(wording.normalise(reading.question), reading)
    return list(unique.values())


def _relevant_slots(context: HypothesisContext) -> Sequence[str]:
    return context.intent.intent.slots if context.intent else tuple(context.catalogue.slots)


def _known_values(context: HypothesisContext, said: SlotValues) -> list[_Known]:
    """What the user's memories say about slots the input leaves open, weightiest first.

    A memory with a negation blocks its values instead of offering them.
    """
    slots = context.catalogue.slots
    relevant = [slot for slot in _relevant_slots(context) if slot not in said and slots[slot].is_carried]
    blocked: set[str] = set()
    found: dict[str, _Known] = {}
    for ranked in context.memories:
        memory = ranked.memory
        if not context.intent and ranked.similarity < MIN_MEMORY_SIMILARITY:
            continue
        values = context.catalogue.values_in(memory.content)
        if wording.has_negation(memory.content):
            blocked.update(value for each in values.values() for value in each)
            continue
        weight = memory.confidence * (0.4 + 0.3 * ranked.similarity + 0.3 * ranked.recency)
        for slot in relevant:
            for value in values.get(slot, ()):
                if value not in found or found[value].weight < weight:
                    found[value] = _Known(slot, value, weight, ranked)
    return sorted(
        (known for known in found.values() if known.value not in blocked),
        key=lambda known: (-known.weight, -known.ranked.memory.valid_from.timestamp(), known.value),
    )


def _from_known_values(context: HypothesisContext, known: Sequence[_Known]) -> list[Reading]:
    """The best-supported filling of the open slots, and the runner-up of its most disputed slot.

    Values of one slot are named together when one memory names them together.
    """
    best: dict[str, list[_Known]] = {}
    rivals: list[_Known] = []
    for item in known:
        chosen = best.setdefault(item.slot, [])
        is_companion = chosen and chosen[0].ranked.memory.memory_id == item.ranked.memory.memory_id
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
    order = [slot for slot in _relevant_slots(context) if slot in filling]
    items = [item for slot in order for item in filling[slot]]
    memories = {item.ranked.memory.memory_id: item.ranked.memory for item in items}
    slots = {slot: ", ".join(item.value for item in filling[slot]) for slot in order}
    fillers = _fillers(context.catalogue, {slot: [item.value for item in filling[slot]] for slot in order})
    said = "; ".join(f"“{_quoted(memory.content)}”" for memory in list(memories.values())[:2])
    support = sum(item.weight for item in items) / len(items)
    nearness = 0.8 * (context.intent.similarity - 0.4) if context.intent else -0.3
    return Reading(
        question=f"{wording.as_request(context.input_text)} {fillers}?",
        request=f"{_own_voice(context.input_text)} {fillers}",
        rationale=f"You said {said}.",
        score=-0.6 + 0.5 * min(3, len(order)) + support + nearness + handicap,
        origin="memory",
        slots=slots,
        evidence=tuple(memories),
    )


def _from_memories(context: HypothesisContext, named: set[UUID]) -> list[Reading]:
    """A reading per near memory, quoting it. What is `named` already says less when it is said again."""
    readings: list[Reading] = []
    for ranked in context.memories:
        if ranked.similarity < MIN_MEMORY_SIMILARITY:
            continue
        frame, bonus = _FRAMES[ranked.memory.type]
        is_named = ranked.memory.memory_id in named
        clause = frame.format(_quoted(ranked.memory.content))
        readings.append(
            Reading(
                question=f"{wording.as_request(context.input_text)}, {clause}?",
                request=f"{_own_voice(context.input_text)}, {clause}",
                rationale=f"Near what you told me ({ranked.memory.type.lower()}, relevance {ranked.similarity:.2f}).",
                score=-1.1 + 2.0 * ranked.similarity + 0.3 * ranked.recency + bonus - 0.8 * is_named,
                origin="memory",
                evidence=(ranked.memory.memory_id,),
            )
        )
    return readings[: 2 * context.count]


def _from_choices(context: HypothesisContext, said: SlotValues) -> list[Reading]:
    """What the user chose for near inputs, worded for this one."""
    readings: list[Reading] = []
    for choice in context.past_choices:
        if not choice.is_chosen or choice.similarity < MIN_CHOICE_SIMILARITY:
            continue
        before = _quoted(choice.input_text, 8)
        open_slots = {slot: [value] for slot, value in choice.slots.items() if slot not in said}
        if open_slots:
            middle = f" {_fillers(context.catalogue, open_slots)}"
        elif choice.answer:
            middle = f": “{_quoted(choice.answer)}”"
        else:
            continue
        readings.append(
            Reading(
                question=f"{wording.as_request(context.input_text)}{middle}, as you chose for “{before}”?",
                request=f"{_own_voice(context.input_text)}{middle}",
                rationale=f"You chose this for “{before}” (similarity {choice.similarity:.2f}).",
                score=-0.8 + 1.2 * choice.similarity,
                origin="choice",
                slots=dict(choice.slots),
                evidence=choice.evidence,
            )
        )
    return readings


def _from_cohort(context: HypothesisContext, said: SlotValues) -> list[Reading]:
    """What at least k other users chose for near inputs; only vocabulary, never their words."""
    readings: list[Reading] = []
    for choice in context.cohort_choices:
        open_slots = {slot: [value] for slot, value in choice.slots.items() if slot not in said}
        if not open_slots:
            continue
        fillers = _fillers(context.catalogue, open_slots)
        readings.append(
            Reading(
                question=f"{wording.as_request(context.input_text)} {fillers}?",
                request=f"{_own_voice(context.input_text)} {fillers}",
                rationale=f"{choice.users} others chose this for similar requests.",
                score=-0.6 + 1.5 * choice.share,
                origin="cohort",
                slots=dict(choice.slots),
            )
        )
    return readings


def _from_options(context: HypothesisContext, said: SlotValues, known: Sequence[_Known]) -> list[Reading]:
    """The common readings of the intent; without an intent, the questions for the open slots."""
    if context.intent is None:
        return _open_questions(context)
    held = {item.slot for item in known}
    readings: list[Reading] = []
    for index, option in enumerate(context.intent.intent.options):
        if any(slot in said and value not in said[slot] for slot, value in option.slots.items()):
            continue
        is_contested = any(slot in held for slot in option.slots)
        readings.append(
            Reading(
                question=f"{option.text}?",
                request=option.text,
                rationale="A common reading of such a request; nothing you told me speaks for or against it.",
                score=-0.5 - 0.3 * index + 0.8 * (context.intent.similarity - 0.4) - 0.8 * is_contested,
                origin="option",
                slots=dict(option.slots),
            )
        )
    return readings


_GENERAL_READINGS = (
    ("explain it and the options there are", "Understanding comes first in most open requests."),
    ("do it: a result you can use as it is", "Many open requests want the finished thing."),
    ("plan it: the steps, in order", "Many open requests want a way to start."),
)


def _open_questions(context: HypothesisContext) -> list[Reading]:
    echo = wording.as_request(context.input_text)
    return [
        Reading(
            question=f"{echo} — {text}?",
            request=f"{_own_voice(context.input_text)}: {text}",
            rationale=why,
            score=-1.0 - 0.2 * index,
            origin="option",
        )
        for index, (text, why) in enumerate(_GENERAL_READINGS)
    ]


def _with_history(reading: Reading, choices: Sequence[PastChoice]) -> Reading:
    """`reading` with the weight of what the user chose and turned down for near inputs."""
    chosen = sum(c.similarity**2 for c in choices if c.is_chosen and _is_same(reading, c))
    refused = sum(c.similarity**2 for c in choices if not c.is_chosen and _is_same(reading, c))
    gain = 1.3 * math.log1p(chosen) - 0.8 * math.log1p(refused)
    return reading if gain == 0 else replace(reading, score=reading.score + gain)


def _is_same(reading: Reading, choice: PastChoice) -> bool:
    if choice.similarity < MIN_CHOICE_SIMILARITY:
        return False
    if reading.slots or choice.slots:
        return dict(reading.slots) == dict(choice.slots)
    return bool(reading.evidence) and set(reading.evidence) == set(choice.evidence)


def _fillers(catalogue: Catalogue, slots: Mapping[str, Sequence[str]]) -> str:
    return " ".join(phrase(catalogue, slot, values) for slot, values in slots.items())


def _own_voice(text: str) -> str:
    return wording.snippet(text, 40).rstrip("?")


def _quoted(text: str, max_words: int = 16) -> str:
    return wording.snippet(redact(text).text, max_words)
