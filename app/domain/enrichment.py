"""What an input implies beyond its words, from the catalogue and what is known of the user."""

import re
from collections.abc import Mapping

from app.domain import wording
from app.domain.catalogue import phrase
from app.domain.hypotheses import HypothesisContext
from app.domain.memory import MemoryType
from app.domain.readings import MIN_VALUE_SIMILARITY, local_readings
from app.domain.redaction import redact

MAX_GOALS = 3
MIN_GOAL_SIMILARITY = 0.2

_EXPERT = re.compile(
    r"\b(?:senior|expert|years of experience|architect|lead|principal|professional|phd)\b", re.IGNORECASE
)
_BEGINNER = re.compile(
    r"\b(?:beginner|new to|never (?:done|used)|learning|just started|no experience|newbie|student)\b", re.IGNORECASE
)


def enrich(context: HypothesisContext) -> Mapping[str, object]:
    """`implicit_goals` (the user's own goals near the input, then what its likeliest readings aim at),
    `inferred_expertise_level` (`beginner`, `intermediate` or `expert`) and `next_steps` (what to settle)."""
    goals = [
        wording.snippet(redact(ranked.memory.content).text, 24)
        for ranked in context.memories
        if ranked.memory.type is MemoryType.GOAL and ranked.similarity >= MIN_GOAL_SIMILARITY
    ]
    readings = local_readings(context)
    goals += [reading.request for reading in readings[:MAX_GOALS]]
    return {
        "implicit_goals": list(dict.fromkeys(goals))[:MAX_GOALS],
        "inferred_expertise_level": expertise_level(context),
        "next_steps": followup_questions(context.input_text, context, 3),
    }


def expertise_level(context: HypothesisContext) -> str:
    """What the user's own statements say about their experience; `intermediate` when they say nothing."""
    said = [r.memory.content for r in context.memories if r.memory.type in {MemoryType.PROFILE, MemoryType.STYLE}]
    said.append(context.input_text)
    expert = sum(bool(_EXPERT.search(text)) for text in said)
    beginner = sum(bool(_BEGINNER.search(text)) for text in said)
    if expert == beginner:
        return "intermediate"
    return "expert" if expert > beginner else "beginner"


def followup_questions(text: str, context: HypothesisContext, count: int) -> list[str]:
    """Questions for what `text` leaves open, by importance; a value known from memory is offered in it."""
    catalogue = context.catalogue
    said = catalogue.values_in(text)
    wanted = context.intent.intent.slots if context.intent else ("goal", "form", "audience", "time")
    affirmed = [
        catalogue.values_in(wording.affirmed_and_denied(ranked.memory.content)[0])
        for ranked in context.memories
        if ranked.similarity >= MIN_VALUE_SIMILARITY
    ]
    questions: list[str] = []
    for slot in wanted:
        if slot in said or slot not in catalogue.slots:
            continue
        known = next((values[slot] for values in affirmed if slot in values), None)
        question = catalogue.slots[slot].question
        if known and catalogue.slots[slot].is_carried:
            question = f"{question.rstrip('?')} — {phrase(catalogue, slot, known[:2])}, as before?"
        questions.append(question)
    return questions[:count]
