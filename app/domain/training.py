"""Training samples: the shapes of the lines in `data/training/*.jsonl`, with every secret hidden.

A sample keeps the ids it was made with as they are (`user_id`, `tenant_id`, ids of hypotheses and
memories): without them a user's samples could not be erased. All other text in it is redacted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Any, Literal, Protocol, cast, get_args
from uuid import UUID

from app.domain.errors import InvalidInput
from app.domain.redaction import redact

SCHEMA_VERSION = 2
"""The version of all shapes here; a field that changes its meaning makes it rise. 2: what a model was told
(`context.memories`) and every hypothesis' `request`; `model`, `prompt_version` and `adapter` in every file."""

HYPOTHESES_FILE = "hypotheses_data.jsonl"
PERSONA_FILE = "persona_updates.jsonl"
RANKING_FILE = "ranking_data.jsonl"
FEEDBACK_FILE = "user_feedback.jsonl"
PREFERENCES_FILE = "preferences.jsonl"
FILES: tuple[str, ...] = (HYPOTHESES_FILE, PERSONA_FILE, RANKING_FILE, FEEDBACK_FILE, PREFERENCES_FILE)

Sample = dict[str, Any]
"""One line of a file: JSON values only."""

Id = UUID | str
Label = Literal["positive", "negative"]
Preferred = Literal["hypothesis_a", "hypothesis_b", "tie"]


class Proposed(Protocol):
    """What a sample needs of a hypothesis that was shown; `app.domain.hypotheses.Hypothesis` is one."""

    @property
    def id(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def confidence(self) -> float: ...


@dataclass(frozen=True)
class Maker:
    """What made the answer that a sample is about: the model (or `local`), its prompts' version, the adapter."""

    model: str | None = None
    prompt_version: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class About:
    """What every sample says: when, of whom, of whose making."""

    at: datetime
    user_id: str
    tenant_id: str = "default"
    hypothesis_set_id: Id | None = None
    maker: Maker = Maker()

    @property
    def timestamp(self) -> str:
        """The moment in UTC, to the second, e.g. `2025-10-19T10:30:00Z`."""
        return self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def head(self) -> Sample:
        """The first fields of a sample."""
        return {"timestamp": self.timestamp, "user_id": self.user_id}

    def tail(self) -> Sample:
        """The last fields of a sample. Only what a user consented to is ever made into one."""
        return {
            "hypothesis_set_id": _text(self.hypothesis_set_id),
            "prompt_version": self.maker.prompt_version,
            "model": self.maker.model,
            "adapter": self.maker.adapter,
            "tenant_id": self.tenant_id,
            "schema_version": SCHEMA_VERSION,
            "consent": True,
        }


def hypotheses_sample(
    about: About,
    user_input: str,
    persona_facets: Mapping[str, float],
    recent_goals: Sequence[str],
    preferences: Sequence[str],
    hypotheses: Sequence[Proposed | Mapping[str, Any]],
    selected_id: str | None,
    label: Label | None = None,
    memories: Sequence[Mapping[str, Any]] = (),
) -> Sample:
    """The hypotheses shown for an input and which one the user chose (None: none of them). `memories` are what a
    model is told of the user, in its order: `type`, `content`, `date`.

    Without a `label` a choice is positive and no choice negative. Raises InvalidInput for another label or
    a `selected_id` that was not shown.
    """
    shown = [_shown(hypothesis) for hypothesis in hypotheses]
    if selected_id is not None and selected_id not in {one["id"] for one in shown}:
        raise InvalidInput("selected_id is none of the hypotheses.", field="selected_id")
    label = label or ("negative" if selected_id is None else "positive")
    if label not in get_args(Label):
        raise InvalidInput("label is positive or negative.", field="label")
    return {
        **about.head(),
        "user_input": _clean(user_input),
        "context": {
            "persona_facets": _clean(dict(persona_facets)),
            "recent_goals": _clean(list(recent_goals)),
            "preferences": _clean(list(preferences)),
            "memories": _clean([dict(memory) for memory in memories]),
        },
        "hypotheses": shown,
        "selected_id": selected_id,
        "label": label,
        **about.tail(),
    }


def persona_sample(
    about: About,
    signal: Mapping[str, Any],
    facets_before: Mapping[str, float],
    updates: Mapping[str, float],
    facets_after: Mapping[str, float],
    source: str | None = None,
) -> Sample:
    """A signal, and how far each facet moved for it (`updates`, -1..1); `source` is the SLM that said so."""
    return {
        **about.head(),
        "signal": _clean(dict(signal)),
        "persona_facets": _clean(dict(facets_before)),
        "updates": _clean(dict(updates)),
        "facets_after": _clean(dict(facets_after)),
        "source": source,
        **about.tail(),
    }


def ranking_sample(
    about: About,
    query: str,
    candidates: Sequence[Mapping[str, Any]],
    used_ids: Sequence[Id] = (),
    is_success: bool | None = None,
) -> Sample:
    """The memories found for a query, best first, and which of them went into the prompt.

    Each candidate has an `id` and what else is known: `content`, `score`, `parts`.
    """
    return {
        **about.head(),
        "query": _clean(query),
        "candidates": [
            {"rank": rank, **_clean_but(candidate, "id")} for rank, candidate in enumerate(candidates, start=1)
        ],
        "used_ids": [str(one) for one in used_ids],
        "success": is_success,
        **about.tail(),
    }


def feedback_sample(
    about: About,
    execution_id: Id | None = None,
    is_success: bool | None = None,
    rating: float | None = None,
    comment: str | None = None,
    rejected_ids: Sequence[str] = (),
) -> Sample:
    """What a user said of an answer: `rating` in -1..1, a comment, the hypotheses turned down."""
    return {
        **about.head(),
        "execution_id": _text(execution_id),
        "success": is_success,
        "rating": rating,
        "comment": _clean(comment),
        "rejected_ids": list(rejected_ids),
        **about.tail(),
    }


def preference_sample(
    about: About, hypothesis_a: str, hypothesis_b: str, preferred: str, reward: float | None = None
) -> Sample:
    """Which of two hypotheses (their texts) a user prefers. Raises InvalidInput for another `preferred`."""
    if preferred not in get_args(Preferred):
        raise InvalidInput(f"preferred is one of {', '.join(get_args(Preferred))}.", field="preferred")
    return {
        **about.head(),
        "hypothesis_a": _clean(hypothesis_a),
        "hypothesis_b": _clean(hypothesis_b),
        "preferred": preferred,
        "reward": reward,
        **about.tail(),
    }


def is_of_user(sample: Sample, tenant_id: str, user_id: str) -> bool:
    """Whether a sample is of this user of this tenant."""
    return sample.get("user_id") == user_id and is_of_tenant(sample, tenant_id)


def is_of_tenant(sample: Sample, tenant_id: str) -> bool:
    """Whether a sample is of this tenant; one without a tenant is of `default`."""
    return sample.get("tenant_id", "default") == tenant_id


def _shown(hypothesis: Proposed | Mapping[str, Any]) -> Sample:
    if isinstance(hypothesis, Mapping):
        one, question, confidence = hypothesis["id"], hypothesis["question"], hypothesis["confidence"]
        request, evidence = hypothesis.get("request"), hypothesis.get("evidence", ())
    else:
        one, question, confidence = hypothesis.id, hypothesis.question, hypothesis.confidence
        request, evidence = getattr(hypothesis, "request", None), getattr(hypothesis, "evidence", ())
    return {
        "id": str(one),
        "question": _clean(question),
        "request": _clean(request),
        "confidence": float(confidence),
        "evidence": [str(memory_id) for memory_id in evidence],
    }


def _text(one: Id | None) -> str | None:
    return None if one is None else str(one)


def _clean_but(values: Mapping[str, Any], kept: str) -> Sample:
    """`values` redacted but for the id under `kept`."""
    return {key: str(value) if key == kept else _clean(value) for key, value in values.items()}


def _clean(value: Any) -> Any:
    """`value` as JSON, all text in it redacted, in keys too; half a surrogate pair becomes `?`."""
    if isinstance(value, str):
        return redact(value.encode("utf-8", "replace").decode()).text
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value)
        return {_clean(str(key)): _clean(inner) for key, inner in pairs.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in cast("Iterable[Any]", value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral | Real):
        return int(value) if isinstance(value, Integral) else float(value)
    return _clean(str(value))
