"""The shapes of requests and answers, as the contract states them. Input is parsed strictly and once, here."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic import Tag as Alternative
from pydantic.config import JsonDict

from app.domain.catalogue import MOST_LOSS
from app.domain.memory import MemoryType
from app.domain.users import NO_CONTROL

MAX_CONTENT = 16_000
"""Characters of one memory, comment or answer."""

MAX_INPUT = 32_000
"""Characters of one input; what exceeds the token budget is cut when the prompt is built."""

MAX_BATCH = 1_000


def _encodable(text: str) -> str:
    """Refuse lone surrogates: they are not characters, and no database keeps them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("contains half a character (a lone surrogate)") from None
    return text


NO_NUL = r"^[^\x00]*$"

_CLOSED: JsonDict = {"additionalProperties": False}
"""For maps whose keys have a pattern: in the OpenAPI document other keys would be free to mean anything."""

TAG_MARK = "~"
"""Begins the names of alternatives that the validator puts into the places of errors."""

ONE, MANY = f"{TAG_MARK}one", f"{TAG_MARK}many"

Text = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_CONTENT, pattern=NO_NUL), AfterValidator(_encodable)
]
OptionalText = Annotated[str, StringConstraints(max_length=MAX_CONTENT, pattern=NO_NUL), AfterValidator(_encodable)]
InputText = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_INPUT, pattern=NO_NUL), AfterValidator(_encodable)
]
UserId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=NO_CONTROL), AfterValidator(_encodable)]
SessionName = Annotated[
    str, StringConstraints(min_length=1, max_length=256, pattern=NO_CONTROL), AfterValidator(_encodable)
]
Source = Annotated[str, StringConstraints(max_length=128, pattern=NO_NUL), AfterValidator(_encodable)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_CONTROL), AfterValidator(_encodable)]
FACET_NAME = r"^[a-z][a-z0-9_]{0,39}$"
FacetName = Annotated[str, StringConstraints(pattern=FACET_NAME)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
Term = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=NO_CONTROL), AfterValidator(_encodable)]
Terms = Annotated[list[Term], Field(max_length=1000)]
HypothesisId = Annotated[str, StringConstraints(pattern=r"^h[1-9][0-9]?$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
MOMENT = (
    r"^(?!000[01]|9999)\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$"
)
"""RFC 3339, without the first and last year, where a time zone could lead out of the calendar."""

_MOMENT = re.compile(MOMENT, re.ASCII)


def _parse_uuid(value: Any) -> Any:
    """JSON has no ids: a string of the usual form stands for one, other spellings do not."""
    return UUID(value) if isinstance(value, str) and _UUID.fullmatch(value) else value


def _parse_moment(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)  # PostgreSQL knows no zone beyond 15:59
        except ValueError:
            pass
    raise ValueError("should be a moment of the years 2 to 9998 with a time zone, e.g. 2026-01-31T12:00:00Z")


def _parse_whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse_type(value: Any) -> Any:
    return MemoryType(value) if isinstance(value, str) and value in MemoryType.__members__ else value


Id = Annotated[UUID, BeforeValidator(_parse_uuid, json_schema_input_type=UUID)]
Moment = Annotated[
    datetime,
    BeforeValidator(_parse_moment, json_schema_input_type=datetime),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": MOMENT}),
]
WHOLE = BeforeValidator(_parse_whole)
Kind = Annotated[MemoryType, BeforeValidator(_parse_type, json_schema_input_type=MemoryType)]


class Request(BaseModel):
    """Base of request bodies: nothing is coerced, nothing unknown is ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Response(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(frozen=True)


class ProblemItem(Response):
    """One part of a request that was not understood."""

    field: str
    message: str


class Problem(Response):
    """RFC 9457: what went wrong."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemItem] | None = None


# --- hypotheses


class TurnIn(Request):
    """One message of the conversation so far."""

    role: Literal["system", "user", "assistant", "tool"]
    content: OptionalText


class HypothesizeIn(Request):
    """An input to read."""

    user_id: UserId
    input_text: InputText
    conversation: Annotated[list[TurnIn], Field(max_length=200)] = []
    count: Annotated[int, Field(ge=1, le=5), WHOLE] = 3
    by_rank: Annotated[
        bool, Field(description="Whether you show the hypotheses by `rank`: then the order is drawn now and then.")
    ] = False


class HypothesisOut(Response):
    """A guess of what the user means, put as a question. `confidence` is the calibrated probability that
    this is meant; over the list it sums to at most 1, the rest is "none of these"."""

    id: str
    rank: Annotated[
        int, Field(ge=1, description="Where to show it: its place in the list, unless `by_rank` was asked for.")
    ]
    question: str
    rationale: str
    confidence: Share
    evidence: list[UUID]


class HypothesizeOut(Response):
    """The hypotheses for one input, with the decision. `model` is what answered: the adapter where one did, else the
    model's name; null for the built-in rules."""

    hypothesis_set_id: UUID
    decision: Literal["ask", "auto_advance", "proceed"]
    auto_advance: bool
    clarification_need: Share
    expected_gain: Annotated[
        float, Field(description="What the answer to a question would gain, in right acts; one is asked for its cost.")
    ]
    hypotheses: list[HypothesisOut]
    source: str
    model: str | None
    adapter: str | None
    degraded: bool
    calibration_version: int


class AnswerIn(Request):
    """How the question of a hypothesis set was answered: by one of its options, by turning some down, in the user's own
    words, or by several of these at once."""

    user_id: UserId
    hypothesis_set_id: Id
    hypothesis_id: HypothesisId | None = None
    rejected_ids: Annotated[list[HypothesisId], Field(max_length=5)] = []
    answer: Text | None = None
    count: Annotated[int, Field(ge=1, le=5), WHOLE] = 3


class ExecuteIn(Request):
    """What the user settled on."""

    user_id: UserId
    input_text: InputText
    hypothesis_set_id: Id | None = None
    hypothesis_id: HypothesisId | None = None
    custom_answer: Text | None = None
    token_budget: Annotated[int, Field(ge=256, le=1_000_000), WHOLE] | None = None


class Message(Response):
    """A chat message."""

    role: str
    content: str


class MemoryUse(Response):
    """A memory that went into a prompt."""

    id: UUID
    score: float
    section: str


class ContextBreakdown(Response):
    """Tokens of each section of the prompt."""

    goal_summary: int
    preferences_style: int
    critical_artifacts: int
    recent_history: int
    constraints: int
    task_specific_retrieval: int
    safety_system: int


class ExecuteOut(Response):
    """The enriched prompt, the same as chat messages, and what went into it."""

    execution_id: UUID
    enriched_prompt: str
    messages: list[Message]
    tokens_estimate: int
    context_breakdown: ContextBreakdown
    memories_used: list[MemoryUse]
    redactions: dict[str, int]
    degraded: bool


class FeedbackIn(Request):
    """How an execution or a hypothesis set was received."""

    user_id: UserId
    execution_id: Id | None = None
    hypothesis_set_id: Id | None = None
    success: bool | None = None
    rating: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = None
    comment: OptionalText = ""
    rejected_ids: Annotated[list[HypothesisId], Field(max_length=10)] = []


class FeedbackOut(Response):
    """How far each facet moved."""

    accepted: Literal[True] = True
    facet_deltas: dict[str, float]


class PreferenceIn(Request):
    """Which of two wordings a user prefers."""

    user_id: UserId
    hypothesis_a: Text
    hypothesis_b: Text
    preferred: Literal["hypothesis_a", "hypothesis_b", "tie"]
    reward: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] | None = None


class Accepted(Response):
    """It was recorded."""

    accepted: Literal[True] = True


class FollowupsIn(Request):
    """A conversation to go on with."""

    user_id: UserId
    conversation_context: InputText
    count: Annotated[int, Field(ge=1, le=10), WHOLE] = 3


class FollowupsOut(Response):
    """Questions that move the conversation on; `degraded` when the built-in rules stood in for the model."""

    questions: list[str]
    degraded: bool


class EnrichIn(Request):
    """An input to look behind."""

    user_id: UserId
    input_text: InputText


class Enrichment(Response):
    """What an input implies."""

    implicit_goals: list[str]
    inferred_expertise_level: str
    next_steps: list[str]


class EnrichOut(Response):
    """What an input implies."""

    enrichment: Enrichment
    degraded: bool


# --- personas


class FacetOut(Response):
    """A facet: its value 0..1 (0.5 is neutral), its uncertainty (a standard deviation), the values that are probable
    (80 %), and whether they exclude neutral by what this user did or said, so that it shapes prompts. `evidence`:
    how many choices and remarks speak of it. `told_at`: since when it is what the user said. A pinned one is not
    learned."""

    value: float
    uncertainty: float
    low: float
    high: float
    is_expressed: bool
    evidence: int
    evidence_at: datetime | None
    updated_at: datetime | None
    told_at: datetime | None
    is_pinned: bool


class PersonaOut(Response):
    """A user's facets."""

    user_id: str
    facets: dict[str, FacetOut]
    version: int
    vector: list[float] | None
    updated_at: datetime | None


class PersonaChangeIn(Request):
    """Facets to set outright, to pin (true: not learned any more) or to let go (false). With `version`, only if nobody
    changed the persona since that version."""

    facets: Annotated[dict[FacetName, Share], Field(max_length=64, json_schema_extra=_CLOSED)] = {}
    pinned: Annotated[dict[FacetName, bool], Field(max_length=64, json_schema_extra=_CLOSED)] = {}
    version: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = None


class FacetChangeOut(Response):
    """One move of one facet, and why."""

    facet: str
    before: float
    after: float
    uncertainty: float
    reason: str
    signal_id: UUID | None
    version: int
    changed_at: datetime


class PersonaHistoryOut(Response):
    """Every move, oldest first."""

    changes: list[FacetChangeOut]


# --- the rest


class SlotIn(Request):
    """Something a request may leave open; see the built-in catalogue."""

    phrase: Term | None = None
    question: Term | None = None
    carried: bool | None = None


class OptionIn(Request):
    """A common reading of an intent."""

    text: Term
    slots: Annotated[dict[Name, Term], Field(max_length=32, json_schema_extra=_CLOSED)] = {}


class IntentIn(Request):
    """Something people ask for."""

    examples: Annotated[list[Term], Field(max_length=200)] | None = None
    slots: Annotated[list[Name], Field(max_length=32)] | None = None
    required: Annotated[list[Name], Field(max_length=32)] | None = None
    options: Annotated[list[OptionIn], Field(max_length=32)] | None = None
    loss: Annotated[float, Field(ge=0, le=MOST_LOSS, allow_inf_nan=False)] | None = None


class IntentsIn(Request):
    """A tenant's own additions to the catalogue of intents: new entries are added, lists are joined with the
    built-in ones, the rest replaces them."""

    slots: Annotated[dict[Name, SlotIn], Field(max_length=200, json_schema_extra=_CLOSED)] | None = None
    vocabulary: Annotated[dict[Name, Terms], Field(max_length=200, json_schema_extra=_CLOSED)] | None = None
    case_sensitive: Terms | None = None
    aliases: Annotated[dict[Term, Term], Field(max_length=1000, json_schema_extra=_CLOSED)] | None = None
    intents: Annotated[dict[Name, IntentIn], Field(max_length=200, json_schema_extra=_CLOSED)] | None = None


class ConsentIn(Request):
    """What a user says to training."""

    training: bool


class ConsentOut(Response):
    """Whether samples of the user are kept; of those erased, the lines by file, and what was trained on them, as in
    the answer to an erasure."""

    training: bool
    erased: dict[str, int] = {}
    trained_adapters: list[str] = []
    unsure_adapters: list[str] = []
    deleted_datasets: bool = False


class WeightsIn(Request):
    """Shares of a score's parts; scaled to sum to 1."""

    similarity: Weight = 0.6
    recency: Weight = 0.25
    confidence: Weight = 0.15

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if self.similarity + self.recency + self.confidence <= 0:
            raise ValueError("at least one weight has to be above zero")
        return self


class SettingsIn(Request):
    """A tenant's own settings; what is absent falls back to the service's. `collect_training_data` false: no sample
    of any of the tenant's users is kept."""

    weights: WeightsIn | None = None
    token_budget: Annotated[int, Field(ge=256, le=1_000_000), WHOLE] | None = None
    auto_advance_confidence: Annotated[float, Field(ge=0.5, le=1, allow_inf_nan=False)] | None = None
    question_cost: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    order_shuffle: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    collect_training_data: bool | None = None
    intents: IntentsIn | None = None


def _text_or_texts(value: Any) -> str:
    return MANY if isinstance(value, list) else ONE


OneOrManyTexts = Annotated[
    Annotated[InputText, Alternative(ONE)]
    | Annotated[list[InputText], Field(min_length=1, max_length=2048), Alternative(MANY)],
    Discriminator(_text_or_texts),
]


class EmbeddingsIn(BaseModel):
    """OpenAI's embeddings request. Fields of theirs that change nothing here are accepted."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    input: OneOrManyTexts
    model: Annotated[str, StringConstraints(max_length=256)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=16000), WHOLE] | None = None
    user: Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)] | None = None


class EmbeddingOut(Response):
    """One vector, as numbers or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Response):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(Response):
    """OpenAI's embeddings answer."""

    object: Literal["list"] = "list"
    data: list[EmbeddingOut]
    model: str
    usage: Usage


class EmbedIn(Request):
    """Texts to embed."""

    inputs: Annotated[list[InputText], Field(min_length=1, max_length=2048)]
    normalise: bool = True


class EmbedOut(Response):
    """Vectors of the texts, in order."""

    embeddings: list[list[float]]
    count: int
    dim: int
    backend: str
    normalised: bool
    model: str


class InfoOut(Response):
    """What is running."""

    name: str
    version: str
    slm: str
    model: str
    dim: int
    space: str
    backend: str
    normalised: bool


class HealthOut(Response):
    """Alive."""

    status: Literal["ok"] = "ok"


class ReadyOut(Response):
    """Each part's state."""

    status: Literal["ready", "degraded", "unready"]
    parts: dict[str, str]
