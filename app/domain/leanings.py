"""How words lean: what a comment says of each facet, and how an option leans on it.

A leaning is between -1 (away from the facet) and 1 (towards it). That of a hypothesis is kept with its set, so that
choosing it is a comparison with those it was shown with; a model may give its own in place of these rules.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from app.domain.persona import DEFAULT_FACETS, NEUTRAL, Signal
from app.domain.wording import has_negation, normalise

CHOSEN_FORM = 0.05
REJECTED_FORM = -0.02
VERDICT = 0.03
"""What a leaning of what was chosen or turned down counts, and a verdict on an answer that expressed facets shaped,
as a part of 1; a remark about the answer counts up to 0.1."""

# What people say about an answer, and which way it points. Phrases are matched inside the normalised
# comment, the longest first, each stretch of the comment once.
_COMMENT_PHRASES: Mapping[str, Sequence[tuple[str, float]]] = {
    "concise": (
        ("too brief", -0.1),
        ("too short", -0.1),
        ("too terse", -0.1),
        ("more detail", -0.1),
        ("more explanation", -0.08),
        ("explain more", -0.08),
        ("elaborate", -0.08),
        ("not enough detail", -0.1),
        ("too long", 0.1),
        ("too wordy", 0.1),
        ("too verbose", 0.1),
        ("too much detail", 0.1),
        ("too much text", 0.1),
        ("get to the point", 0.1),
        ("shorter", 0.08),
        ("be brief", 0.1),
        ("tl;dr", 0.08),
        ("keep it short", 0.1),
    ),
    "formal": (
        ("too casual", 0.1),
        ("too informal", 0.1),
        ("more formal", 0.1),
        ("more professional", 0.1),
        ("too formal", -0.1),
        ("too stiff", -0.1),
        ("more casual", -0.1),
        ("less formal", -0.1),
        ("friendlier", -0.08),
    ),
    "code_first": (
        ("show me the code", 0.1),
        ("show me code", 0.1),
        ("just the code", 0.1),
        ("just code", 0.1),
        ("code first", 0.1),
        ("more code", 0.1),
        ("need code", 0.1),
        ("no code", -0.1),
        ("less code", -0.1),
        ("too much code", -0.1),
        ("too technical", -0.08),
    ),
    "step_by_step": (
        ("step by step", 0.1),
        ("step-by-step", 0.1),
        ("one step at a time", 0.1),
        ("walk me through", 0.1),
        ("skipped steps", 0.1),
        ("hard to follow", 0.08),
        ("too brief", 0.05),
        ("too many steps", -0.1),
        ("skip the steps", -0.1),
        ("just the result", -0.08),
        ("just the answer", -0.08),
    ),
}

# How an option leans by its words: towards the facet, and away from it.
_FORM_WORDS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "concise": (
        ("short", "brief", "summary", "one-page", "concise", "cheat sheet", "bullet-point list", "minimalist"),
        ("detailed", "in depth", "in-depth", "thorough", "comprehensive", "long-form", "essay", "explanation"),
    ),
    "formal": (
        ("formal", "report", "official", "professional", "scholarly"),
        ("casual", "informal", "friendly", "playful", "humorous", "relaxed"),
    ),
    "code_first": (
        ("code", "script", "snippet", "code-first"),
        ("plain-language", "in plain words", "in words", "conceptual", "explanation"),
    ),
    "step_by_step": (
        ("step by step", "step-by-step", "tutorial", "walkthrough", "checklist"),
        ("finished result", "just the result", "overview", "at a glance"),
    ),
}


def leanings_of(text: str, names: Iterable[str] = ()) -> dict[str, float]:
    """How `text` leans on each facet, -1..1, those it does not speak of left out. `names`: facets beside the default
    ones; a text leans towards one that it names."""
    words = normalise(text)
    own = {name: ((name.replace("_", " "),), ()) for name in names if name not in DEFAULT_FACETS}
    found: dict[str, float] = {}
    for name, (towards, away) in {**_FORM_WORDS, **own}.items():
        leaning = sum(_said(form, words) for form in towards) - sum(_said(form, words) for form in away)
        if leaning:
            found[name] = max(-1.0, min(1.0, leaning))
    return found


def heuristic_deltas(signal: Signal) -> dict[str, float]:
    """Facet deltas of one signal by plain rules: what the comment says, what form was chosen or rejected,
    and whether the result, shaped by the facets that were expressed, was liked."""
    deltas: dict[str, float] = {}

    def add(name: str, delta: float) -> None:
        deltas[name] = max(-1.0, min(1.0, deltas.get(name, 0.0) + delta))

    comment = normalise(signal.comment).replace("’", "'")
    for name, phrases in _COMMENT_PHRASES.items():
        rest = comment
        for phrase, delta in sorted(phrases, key=lambda item: -len(item[0])):
            if found := _spot(phrase, rest):
                add(name, -0.5 * delta if _is_denied(rest[: found.start()]) else delta)
                rest = f"{rest[: found.start()]},{rest[found.end() :]}"
    chosen = leanings_of(signal.chosen_text)
    rejected = [leanings_of(text) for text in signal.rejected_texts]
    for name in _FORM_WORDS:
        against = [each.get(name, 0.0) for each in rejected]
        if name in chosen and not (against and all(each == chosen[name] for each in against)):
            add(name, CHOSEN_FORM * chosen[name])
        elif name not in chosen and any(against):
            add(name, REJECTED_FORM * next(each for each in against if each))
    verdict = signal.rating if signal.rating is not None else _verdict(signal.is_success)
    if verdict and not comment:
        for name, facet in signal.facets.items():
            if facet.is_expressed:
                add(name, VERDICT * verdict * math.copysign(1.0, facet.value - NEUTRAL))
    return {name: delta for name, delta in deltas.items() if delta}


def _said(form: str, text: str) -> float:
    """1 where `text` has the form, -0.5 where it denies it, else 0."""
    found = _spot(form, text)
    return 0.0 if found is None else (-0.5 if _is_denied(text[: found.start()]) else 1.0)


def _spot(phrase: str, text: str) -> re.Match[str] | None:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text)


def _is_denied(before: str) -> bool:
    """Whether the last words of the clause that `before` ends in deny what follows."""
    clause = re.split(r"[,.;:!?]", before)[-1]
    return has_negation(" ".join(clause.split()[-3:]))


def _verdict(is_success: bool | None) -> float:
    return 0.0 if is_success is None else (0.5 if is_success else -0.5)
