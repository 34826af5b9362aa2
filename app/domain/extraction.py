"""Goals, preferences and the like that people state in plain sentences. Small on purpose: it catches
first-person statements and leaves the rest alone."""

import re
from collections.abc import Sequence
from functools import lru_cache

from app.domain.facts import Fact, fact_in
from app.domain.memory import Draft, MemoryType
from app.domain.plans import plan_in

_SENTENCE = re.compile(r"[^.!?\n;]+(?:[.!?](?=\w)[^.!?\n;]*)*")

# Tried in order; the first that matches decides the type of the sentence.
_STATEMENTS: Sequence[tuple[MemoryType, re.Pattern[str], float]] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE), confidence)
    for kind, pattern, confidence in (
        (MemoryType.CONSTRAINT, r"^(?:it|we|i|this|that|the \w+|you|everything|all \w+)\b.{0,40}\b(?:must|has to|have to|mustn't|must not|cannot|can't|may not)\b", 0.75),
        (MemoryType.CONSTRAINT, r"^(?:never|only|always|no more than|at most|within)\b", 0.7),
        (MemoryType.CONSTRAINT, r"\b(?:allergic to|deadline is|budget is)\b", 0.8),
        (MemoryType.STYLE, r"\b(?:keep (?:it|answers|things)|be|answer me|reply)\b.{0,20}\b(?:short|brief|concise|formal|casual|simple|detailed|step by step)\b", 0.75),
        (MemoryType.GOAL, r"\b(?:i|we)(?:'m| am|'re| are)? (?:want|need|plan|planning|hope|hoping|aim|aiming|trying|going) to\b|\b(?:i|we)(?: would|'d) like to\b", 0.7),
        (MemoryType.GOAL, r"\b(?:my|our) (?:goal|aim|plan|dream) is\b", 0.8),
        (MemoryType.PREFERENCE, r"\b(?:i|we) (?:(?:really|mostly|usually|always|would|don't|do not|never|no longer) )*(?:prefer|like|love|enjoy|use|eat|drink|favou?r|hate|dislike|avoid|don't like|write|deploy|work with|rather)\b", 0.75),
        (MemoryType.PREFERENCE, r"\bmy favou?rite\b", 0.8),
        (MemoryType.PROFILE, r"\b(?:i am|i'm) (?:a|an|the|from|based|\d+)\b", 0.75),
        (MemoryType.PROFILE, r"\b(?:my name is|i live|i work (?:at|for|as|in)|my (?:job|wife|husband|partner|son|daughter|team|company)\b)", 0.75),
        (MemoryType.ARTIFACT, r"\b(?:i|we)(?:'ve| have)? (?:built|wrote|made|created|shipped|released|designed)\b", 0.7),
    )
)  # fmt: skip

FACT_CONFIDENCE = 0.85
PLAN_CONFIDENCE = 0.8

MIN_WORDS = 3
MAX_WORDS = 60


@lru_cache(maxsize=50_000)
def facts_in(text: str) -> tuple[Fact, ...]:
    """The attributes that the sentences of `text` tell, in order."""
    sentences = (match.group() + text[match.end() : match.end() + 1] for match in _SENTENCE.finditer(text))
    return tuple(fact for sentence in sentences if (fact := fact_in(sentence.strip())) is not None)


def statements_in(text: str, source: str) -> list[Draft]:
    """Memories for what `text` states in the first person, each with the sentence that says so, in order; questions and
    fragments give none."""
    drafts: list[Draft] = []
    for match in _SENTENCE.finditer(text):
        sentence = " ".join(match.group().split())
        following = text[match.end() : match.end() + 1]
        if following == "?" or not MIN_WORDS <= len(sentence.split()) <= MAX_WORDS:
            continue
        if fact_in(sentence) is not None:
            drafts.append(Draft(MemoryType.PROFILE, sentence, FACT_CONFIDENCE, source=source, quote=sentence))
            continue
        plan = plan_in(sentence)
        if plan is not None:
            drafts.append(Draft(plan, sentence, PLAN_CONFIDENCE, source=source, quote=sentence))
            continue
        for kind, pattern, confidence in _STATEMENTS:
            if pattern.search(sentence):
                drafts.append(Draft(kind, sentence, confidence, source=source, quote=sentence))
                break
    return drafts
