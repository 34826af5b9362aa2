"""Bodies of requests (TypedDicts) and of answers (dataclasses), named as in docs/api/openapi.json.

Written by `python scripts/write_python_client.py`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NotRequired, TypedDict


class EmbedIn(TypedDict):
    """Texts to embed."""

    inputs: list[str]
    normalise: NotRequired[bool]


class AnswerIn(TypedDict):
    """How the question of a hypothesis set was answered: by one of its options, by turning some down, in the user's own
    words, or by several of these at once."""

    answer: NotRequired[str | None]
    count: NotRequired[int]
    hypothesis_id: NotRequired[str | None]
    hypothesis_set_id: str
    rejected_ids: NotRequired[list[str]]
    user_id: str


class EmbeddingsIn(TypedDict):
    """OpenAI's embeddings request. Fields of theirs that change nothing here are accepted."""

    dimensions: NotRequired[int | None]
    encoding_format: NotRequired[Literal["float", "base64"]]
    input: str | list[str]
    model: NotRequired[str | None]
    user: NotRequired[str | None]


class EnrichIn(TypedDict):
    """An input to look behind."""

    input_text: str
    user_id: str


class ExecuteIn(TypedDict):
    """What the user settled on."""

    custom_answer: NotRequired[str | None]
    hypothesis_id: NotRequired[str | None]
    hypothesis_set_id: NotRequired[str | None]
    input_text: str
    token_budget: NotRequired[int | None]
    user_id: str


class FeedbackIn(TypedDict):
    """How an execution or a hypothesis set was received."""

    comment: NotRequired[str]
    execution_id: NotRequired[str | None]
    hypothesis_set_id: NotRequired[str | None]
    rating: NotRequired[float | None]
    rejected_ids: NotRequired[list[str]]
    success: NotRequired[bool | None]
    user_id: str


class FollowupsIn(TypedDict):
    """A conversation to go on with."""

    conversation_context: str
    count: NotRequired[int]
    user_id: str


class TurnIn(TypedDict):
    """One message of the conversation so far."""

    content: str
    role: Literal["system", "user", "assistant", "tool"]


class HypothesizeIn(TypedDict):
    """An input to read."""

    by_rank: NotRequired[bool]
    conversation: NotRequired[list[TurnIn]]
    count: NotRequired[int]
    input_text: str
    user_id: str


MemoryType = Literal["PROFILE", "PREFERENCE", "GOAL", "HISTORY", "ARTIFACT", "STYLE", "CONSTRAINT"]
"""The kinds of fact worth remembering."""


class MemoryIn(TypedDict):
    """A memory to add."""

    confidence: NotRequired[float]
    content: str
    expires_at: NotRequired[datetime | None]
    session: NotRequired[str | None]
    source: NotRequired[str]
    speaker: NotRequired[str | None]
    tags: NotRequired[list[str]]
    turn: NotRequired[int | None]
    type: MemoryType
    valid_from: NotRequired[datetime | None]
    valid_to: NotRequired[datetime | None]


class ManyMemoriesIn(TypedDict):
    """Up to 1,000 memories of a user, added in one transaction."""

    memories: list[MemoryIn]
    user_id: str


class OneMemoryIn(TypedDict):
    """One memory of a user."""

    confidence: NotRequired[float]
    content: str
    expires_at: NotRequired[datetime | None]
    session: NotRequired[str | None]
    source: NotRequired[str]
    speaker: NotRequired[str | None]
    tags: NotRequired[list[str]]
    turn: NotRequired[int | None]
    type: MemoryType
    user_id: str
    valid_from: NotRequired[datetime | None]
    valid_to: NotRequired[datetime | None]


class MessageIn(TypedDict):
    """A turn of a conversation."""

    content: str
    created_at: NotRequired[datetime | None]
    name: NotRequired[str | None]
    role: Literal["system", "user", "assistant", "tool"]


class IngestIn(TypedDict):
    """Turns of a conversation, oldest first."""

    messages: list[MessageIn]
    session: NotRequired[str | None]
    user_id: str


class WeightsIn(TypedDict):
    """Shares of a score's parts; scaled to sum to 1."""

    confidence: NotRequired[float]
    recency: NotRequired[float]
    similarity: NotRequired[float]


class SearchIn(TypedDict):
    """What to look for in a user's memories."""

    as_of: NotRequired[datetime | None]
    known_at: NotRequired[datetime | None]
    limit: NotRequired[int]
    query: str
    rerank: NotRequired[bool | None]
    tags: NotRequired[list[str] | None]
    token_budget: NotRequired[int | None]
    types: NotRequired[list[MemoryType] | None]
    user_id: str
    weights: NotRequired[WeightsIn | None]


class MemoryChangeIn(TypedDict):
    """Fields of a memory to change; what is absent stays."""

    confidence: NotRequired[float | None]
    content: NotRequired[str | None]
    expires_at: NotRequired[datetime | None]
    tags: NotRequired[list[str] | None]
    type: NotRequired[MemoryType | None]
    valid_to: NotRequired[datetime | None]


class PersonaChangeIn(TypedDict):
    """Facets to set outright, to pin (true: not learned any more) or to let go (false). With `version`, only if nobody
    changed the persona since that version."""

    facets: NotRequired[dict[str, float]]
    pinned: NotRequired[dict[str, bool]]
    version: NotRequired[int | None]


class PreferenceIn(TypedDict):
    """Which of two wordings a user prefers."""

    hypothesis_a: str
    hypothesis_b: str
    preferred: Literal["hypothesis_a", "hypothesis_b", "tie"]
    reward: NotRequired[float | None]
    user_id: str


class RecallFeedbackIn(TypedDict):
    """Which of the memories of a recall were helpful."""

    helpful_ids: list[str]


class DocumentIn(TypedDict):
    """A document with fields of the caller's own; only its text is read."""

    text: str


class RerankIn(TypedDict):
    """Cohere's and Jina's rerank request. Fields of theirs that change nothing here are accepted; so is any `model`,
    for one alone is served, and the answer names it."""

    documents: list[str | DocumentIn]
    model: NotRequired[str | None]
    query: str
    return_documents: NotRequired[bool]
    top_n: NotRequired[int | None]


class ConsentIn(TypedDict):
    """What a user says to training."""

    training: bool


@dataclass(frozen=True, kw_only=True)
class EmbedOut:
    """Vectors of the texts, in order."""

    backend: str
    count: int
    dim: int
    embeddings: list[list[float]]
    model: str
    normalised: bool


@dataclass(frozen=True, kw_only=True)
class InfoOut:
    """What is running."""

    backend: str
    dim: int
    model: str
    name: str
    normalised: bool
    slm: str
    space: str
    version: str


@dataclass(frozen=True, kw_only=True)
class ReadyOut:
    """Each part's state."""

    parts: dict[str, str]
    status: Literal["ready", "degraded", "unready"]


@dataclass(frozen=True, kw_only=True)
class HypothesisOut:
    """A guess of what the user means, put as a question. `confidence` is the calibrated probability that
    this is meant; over the list it sums to at most 1, the rest is "none of these"."""

    confidence: float
    evidence: list[str]
    id: str
    question: str
    rank: int
    rationale: str


@dataclass(frozen=True, kw_only=True)
class HypothesizeOut:
    """The hypotheses for one input, with the decision. `model` is what answered: the adapter where one did, else the
    model's name; null for the built-in rules."""

    adapter: str | None
    auto_advance: bool
    calibration_version: int
    clarification_need: float
    decision: Literal["ask", "auto_advance", "proceed"]
    degraded: bool
    expected_gain: float
    hypotheses: list[HypothesisOut]
    hypothesis_set_id: str
    model: str | None
    source: str


@dataclass(frozen=True, kw_only=True)
class EmbeddingOut:
    """One vector, as numbers or base64 of little-endian float32."""

    embedding: list[float] | str
    index: int
    object: Literal["embedding"] = "embedding"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


@dataclass(frozen=True, kw_only=True)
class EmbeddingsOut:
    """OpenAI's embeddings answer."""

    data: list[EmbeddingOut]
    model: str
    object: Literal["list"] = "list"
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class Enrichment:
    """What an input implies."""

    implicit_goals: list[str]
    inferred_expertise_level: str
    next_steps: list[str]


@dataclass(frozen=True, kw_only=True)
class EnrichOut:
    """What an input implies."""

    degraded: bool
    enrichment: Enrichment


@dataclass(frozen=True, kw_only=True)
class ContextBreakdown:
    """Tokens of each section of the prompt."""

    constraints: int
    critical_artifacts: int
    goal_summary: int
    preferences_style: int
    recent_history: int
    safety_system: int
    task_specific_retrieval: int


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """A memory that went into a prompt."""

    id: str
    score: float
    section: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """A chat message."""

    content: str
    role: str


@dataclass(frozen=True, kw_only=True)
class ExecuteOut:
    """The enriched prompt, the same as chat messages, and what went into it."""

    context_breakdown: ContextBreakdown
    degraded: bool
    enriched_prompt: str
    execution_id: str
    memories_used: list[MemoryUse]
    messages: list[Message]
    redactions: dict[str, int]
    tokens_estimate: int


@dataclass(frozen=True, kw_only=True)
class FeedbackOut:
    """How far each facet moved."""

    accepted: Literal[True] = True
    facet_deltas: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FollowupsOut:
    """Questions that move the conversation on; `degraded` when the built-in rules stood in for the model."""

    degraded: bool
    questions: list[str]


@dataclass(frozen=True, kw_only=True)
class JobOut:
    """How a job stands, and what became of its turns so far."""

    created_at: datetime
    deduplicated: int
    finished_at: datetime | None
    job_id: str
    kind: Literal["ingest"]
    memories: int
    passed_over: int
    session: str
    set_apart: int
    state: Literal["waiting", "running", "done", "dead"]
    superseded: int
    taken: int
    turns: int
    user_id: str


@dataclass(frozen=True, kw_only=True)
class EvidenceOut:
    """One telling of a memory."""

    quote: str | None
    source: str


@dataclass(frozen=True, kw_only=True)
class MemoryOut:
    """A memory."""

    confidence: float
    content: str
    created_at: datetime
    evidence: list[EvidenceOut] = field(default_factory=list[EvidenceOut])
    expires_at: datetime | None
    id: str
    proof_count: int = 1
    quote: str | None = None
    session: str | None = None
    source: str
    speaker: str | None = None
    superseded_by: str | None
    tags: list[str]
    turn: int | None = None
    type: MemoryType
    updated_at: datetime
    user_id: str
    valid_from: datetime
    valid_to: datetime | None


@dataclass(frozen=True, kw_only=True)
class PageOut:
    """Memories, and the `cursor` of the page after them; null where there is none."""

    cursor: str | None
    memories: list[MemoryOut]


@dataclass(frozen=True, kw_only=True)
class AddedOut:
    """The id that now holds each memory, in order; how many were known already; which ones were replaced."""

    deduplicated: int
    ids: list[str]
    superseded: list[str]


@dataclass(frozen=True, kw_only=True)
class IngestedOut:
    """The job that remembers what was handed in."""

    job_id: str


@dataclass(frozen=True, kw_only=True)
class SetApartOut:
    """A statement that did not pass the write gate."""

    content: str
    created_at: datetime
    id: str
    quote: str | None
    reason: Literal["unspecific", "perishable", "unsupported"]
    source: str
    type: MemoryType
    user_id: str
    valid_from: datetime


@dataclass(frozen=True, kw_only=True)
class QuarantineOut:
    """Statements that were set apart, and the `cursor` of the page after them; null where there is none."""

    cursor: str | None
    statements: list[SetApartOut]


@dataclass(frozen=True, kw_only=True)
class ScoreParts:
    """What a score is made of, each 0..1: `similarity` is how likely the memory answers the query by its words, its
    meaning and its place in the conversation; `redundancy` how near it is to a result before it, which it is put back
    for. And `cosine`, -1..1, of the two vectors: 0 where one is lacking."""

    confidence: float
    cosine: float
    recency: float
    redundancy: float = 0.0
    rerank: float | None = None
    similarity: float


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A memory found."""

    memory: MemoryOut
    parts: ScoreParts
    score: float


@dataclass(frozen=True, kw_only=True)
class SearchOut:
    """Memories, best first; `degraded` when they were found by words alone."""

    degraded: bool
    left_out: int = 0
    recall_id: str | None = None
    results: list[SearchResult]
    space: str


@dataclass(frozen=True, kw_only=True)
class DeletedOut:
    """How many memories went, old versions included."""

    deleted: int


@dataclass(frozen=True, kw_only=True)
class MemoryHistoryOut:
    """Earlier versions and superseded memories, oldest first; the memory itself comes last."""

    versions: list[MemoryOut]


@dataclass(frozen=True, kw_only=True)
class ImportedOut:
    """Rows written, by kind; rows that were there already are not counted."""

    imported: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class FacetOut:
    """A facet: its value 0..1 (0.5 is neutral), its uncertainty (a standard deviation), the values that are probable
    (80 %), and whether they exclude neutral by what this user did or said, so that it shapes prompts. `evidence`:
    how many choices and remarks speak of it. `told_at`: since when it is what the user said. A pinned one is not
    learned."""

    evidence: int
    evidence_at: datetime | None
    high: float
    is_expressed: bool
    is_pinned: bool
    low: float
    told_at: datetime | None
    uncertainty: float
    updated_at: datetime | None
    value: float


@dataclass(frozen=True, kw_only=True)
class PersonaOut:
    """A user's facets."""

    facets: dict[str, FacetOut]
    updated_at: datetime | None
    user_id: str
    vector: list[float] | None
    version: int


@dataclass(frozen=True, kw_only=True)
class FacetChangeOut:
    """One move of one facet, and why."""

    after: float
    before: float
    changed_at: datetime
    facet: str
    reason: str
    signal_id: str | None
    uncertainty: float
    version: int


@dataclass(frozen=True, kw_only=True)
class PersonaHistoryOut:
    """Every move, oldest first."""

    changes: list[FacetChangeOut]


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """It was recorded."""

    accepted: Literal[True] = True


@dataclass(frozen=True, kw_only=True)
class RecallOut:
    """What was recalled, once."""

    as_of: datetime
    asked_at: datetime
    degraded: bool
    kind: Literal["search", "execute", "chat"]
    memory_ids: list[str]
    query: str
    recall_id: str
    space: str
    user_id: str


@dataclass(frozen=True, kw_only=True)
class RecallsOut:
    """Recalls, and the `cursor` of the page after them; null where there is none."""

    cursor: str | None
    recalls: list[RecallOut]


@dataclass(frozen=True, kw_only=True)
class ReceiptItem:
    """A memory that was recalled, and what it was ranked by then: no `score` where it holds whatever is asked."""

    age_days: float | None
    confidence: float | None
    cosine: float | None
    current: MemoryOut | None = None
    id: str
    is_helpful: bool | None
    is_valid: bool | None
    memory: MemoryOut | None
    quote: str | None
    recency: float | None
    redundancy: float | None
    rerank: float | None
    score: float | None
    similarity: float | None


@dataclass(frozen=True, kw_only=True)
class ReceiptOut:
    """A recall and its memories, best first."""

    memories: list[ReceiptItem]
    recall: RecallOut


@dataclass(frozen=True, kw_only=True)
class ReplayOut:
    """A recall done again, by what was known then and by what is known now."""

    is_same: bool
    now: list[SearchResult]
    recall: RecallOut
    then: list[SearchResult]


@dataclass(frozen=True, kw_only=True)
class DocumentOut:
    """A document as it was sent."""

    text: str


@dataclass(frozen=True, kw_only=True)
class RerankResult:
    """A document's place in the request and its relevance; itself only where that was asked for."""

    document: DocumentOut | None = None
    index: int
    relevance_score: float


@dataclass(frozen=True, kw_only=True)
class RerankOut:
    """The documents most relevant to the query, best first; `degraded` when another reranker stood in for the
    configured one."""

    degraded: bool
    id: str
    model: str
    results: list[RerankResult]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What made sets and their decisions: the version of the rule, its cost of a question and its floor; whose readings
    they are; and what their confidences rest on, `score`, `label` or `nearness`."""

    adapter: str | None
    evidence: str | None
    floor: float | None
    labels_version: str | None
    model: str | None
    prompt_version: str | None
    question_cost: float | None
    source: str
    version: int | None


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Hypotheses of one range of confidence: how many, what was said of them on average, and the share that was
    meant, with the standard deviation that it has by chance where what was said is true."""

    confidence: float
    count: int
    deviation: float
    high: float
    low: float
    share: float


@dataclass(frozen=True, kw_only=True)
class PolicyOut:
    """The figures of one policy's sets; their confidences came from calibrations of the first to the last of
    `calibration_versions`."""

    answered: int
    auto_advance_rate: float | None
    brier: float | None
    calibration_error: float | None
    calibration_versions: list[int]
    chance_calibration_error: float | None
    chance_calibration_error_high: float | None
    expected_utility: float | None
    mrr: float | None
    policy: Policy
    questions_per_task: float | None
    realised_utility: float | None
    reliability: list[ReliabilityBin]
    selection_rate: float | None
    sets: int
    undo_rate: float | None
    weighed_ms: float | None
    weighed_tokens: float | None


@dataclass(frozen=True, kw_only=True)
class TelemetryOut:
    """Figures since a moment, over all sets and of each policy, those with the most sets first."""

    answered: int
    auto_advance_rate: float | None
    brier: float | None
    calibration_error: float | None
    calibration_version: int
    chance_calibration_error: float | None
    chance_calibration_error_high: float | None
    expected_utility: float | None
    mrr: float | None
    policies: list[PolicyOut]
    questions_per_task: float | None
    realised_utility: float | None
    reliability: list[ReliabilityBin]
    selection_rate: float | None
    sets: int
    since: datetime
    undo_rate: float | None
    weighed_ms: float | None
    weighed_tokens: float | None


@dataclass(frozen=True, kw_only=True)
class ErasedOut:
    """Rows and training lines removed, by table and file. `trained_adapters` were trained on samples of the user and
    know nothing of the erasure; of `unsure_adapters` nobody can tell, and `deleted_datasets` went whole, because the
    split.key they were made with is lost."""

    deleted_datasets: bool = False
    erased: dict[str, int]
    trained_adapters: list[str] = field(default_factory=list[str])
    unsure_adapters: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, kw_only=True)
class ConsentOut:
    """Whether samples of the user are kept; of those erased, the lines by file, and what was trained on them, as in
    the answer to an erasure."""

    deleted_datasets: bool = False
    erased: dict[str, int] = field(default_factory=dict[str, int])
    trained_adapters: list[str] = field(default_factory=list[str])
    training: bool
    unsure_adapters: list[str] = field(default_factory=list[str])
