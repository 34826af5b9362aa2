"""The shapes of memories: how they come and go, are found and handed in."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Discriminator, Field
from pydantic import Tag as Alternative

from app.api.schemas import (
    MANY,
    MAX_BATCH,
    ONE,
    WHOLE,
    InputText,
    Kind,
    Moment,
    Request,
    Response,
    SessionName,
    Share,
    Source,
    Tag,
    Text,
    UserId,
    WeightsIn,
)
from app.domain.memory import MemoryType


class MemoryIn(Request):
    """A memory to add."""

    type: Kind
    content: Text
    confidence: Share = 0.8
    tags: Annotated[list[Tag], Field(max_length=32)] = Field([])
    source: Source = "api"
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    expires_at: Moment | None = None
    session: SessionName | None = None
    """The conversation it is from: what is said in one helps to find what was said beside it."""
    turn: Annotated[int, Field(ge=0, lt=1_000_000), WHOLE] | None = None
    """Which turn of that conversation; left out, the next."""
    speaker: SessionName | None = None
    """Who said it."""


class OneMemoryIn(MemoryIn):
    """One memory of a user."""

    user_id: UserId


class ManyMemoriesIn(Request):
    """Up to 1,000 memories of a user, added in one transaction."""

    user_id: UserId
    memories: Annotated[list[MemoryIn], Field(min_length=1, max_length=MAX_BATCH)]


class MessageIn(Request):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text
    created_at: Moment | None = None
    """When it was said; left out, now."""
    name: SessionName | None = None
    """Who said it, where the role does not tell."""


class IngestIn(Request):
    """Turns of a conversation, oldest first."""

    user_id: UserId
    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=MAX_BATCH)]
    session: SessionName | None = None
    """The conversation they belong to; left out, one of their own. What is handed in later under the same name comes
    after it."""


class IngestedOut(Response):
    """The job that remembers what was handed in."""

    job_id: UUID


class JobOut(Response):
    """How a job stands, and what became of its turns so far."""

    job_id: UUID
    kind: Literal["ingest"]
    state: Literal["waiting", "running", "done", "dead"] = Field(
        description="`dead`: given up after many tries; its operator may have it tried again."
    )
    user_id: str
    session: str
    created_at: datetime
    finished_at: datetime | None
    turns: int
    taken: int = Field(description="How many of the turns were dealt with.")
    passed_over: int = Field(description="Turns that nobody said: instructions, results of tools, recalled memories.")
    memories: int = Field(description="Memories that are new.")
    deduplicated: int = Field(description="What was known already.")
    superseded: int = Field(description="Memories that what was said made untrue.")
    set_apart: int = Field(description="Statements that did not pass the write gate.")


def _one_or_many(body: Any) -> str:
    return MANY if isinstance(body, Mapping) and "memories" in body else ONE


MemoriesIn = Annotated[
    Annotated[ManyMemoriesIn, Alternative(MANY)] | Annotated[OneMemoryIn, Alternative(ONE)],
    Discriminator(_one_or_many),
]
"""One memory, or many: told apart by the field `memories`, so that errors speak of the one that was meant."""


class AddedOut(Response):
    """The id that now holds each memory, in order; how many were known already; which ones were replaced."""

    ids: list[UUID]
    deduplicated: int
    superseded: list[UUID]


class EvidenceOut(Response):
    """One telling of a memory."""

    source: str = Field(description="Where it is from; `turn:SESSION:TURN` is a turn that was ingested.")
    quote: str | None = Field(description="The words that tell it, where they are known.")


class MemoryOut(Response):
    """A memory."""

    id: UUID
    user_id: str
    type: MemoryType
    content: str
    confidence: float
    tags: list[str]
    source: str
    created_at: datetime
    updated_at: datetime
    valid_from: datetime
    valid_to: datetime | None
    expires_at: datetime | None
    superseded_by: UUID | None
    session: str | None = None
    turn: int | None = None
    speaker: str | None = None
    quote: str | None = Field(None, description="The words that tell it, where it was made of what somebody said.")
    proof_count: int = Field(1, description="How often it was told.")
    evidence: list[EvidenceOut] = Field([], description="What tells it, oldest first: the first, and the latest 16.")


class PageOut(Response):
    """Memories, and the `cursor` of the page after them; null where there is none."""

    memories: list[MemoryOut]
    cursor: str | None


class MemoryHistoryOut(Response):
    """Earlier versions and superseded memories, oldest first; the memory itself comes last."""

    versions: list[MemoryOut]


class MemoryChangeIn(Request):
    """Fields of a memory to change; what is absent stays."""

    content: Text | None = None
    type: Kind | None = None
    confidence: Share | None = None
    tags: Annotated[list[Tag], Field(max_length=32)] | None = None
    valid_to: Moment | None = None
    expires_at: Moment | None = None


class SearchIn(Request):
    """What to look for in a user's memories."""

    user_id: UserId
    query: InputText
    limit: Annotated[int, Field(ge=1, le=100), WHOLE] = 10
    types: Annotated[list[Kind], Field(min_length=1, max_length=7)] | None = None
    tags: Annotated[list[Tag], Field(min_length=1, max_length=32)] | None = None
    as_of: Moment | None = Field(None, description="What was true then; absent: what is true now.")
    known_at: Moment | None = Field(
        None, description="By what was known then, later corrections left out; absent: by what is known now."
    )
    weights: WeightsIn | None = None
    token_budget: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        None,
        description="Most tokens of all contents together; a memory that does not fit is left out whole. Absent: only "
        "`limit` counts.",
    )
    rerank: bool | None = Field(
        None, description="Whether a model reorders the best ten; absent: where one that is good at it is set up."
    )


class ScoreParts(Response):
    """What a score is made of, each 0..1: `similarity` is how likely the memory answers the query by its words, its
    meaning and its place in the conversation; `redundancy` how near it is to a result before it, which it is put back
    for. And `cosine`, -1..1, of the two vectors: 0 where one is lacking."""

    similarity: float
    recency: float
    confidence: float
    rerank: float | None = None
    redundancy: float = 0.0
    cosine: float


class SearchResult(Response):
    """A memory found."""

    memory: MemoryOut
    score: float
    parts: ScoreParts


class SearchOut(Response):
    """Memories, best first; `degraded` when they were found by words alone."""

    results: list[SearchResult]
    space: str
    degraded: bool
    recall_id: UUID | None = Field(
        None, description="Under which this can be looked at and replayed, where it is kept."
    )
    left_out: int = Field(0, description="How many more there were, which `token_budget` had no room for.")


class DeletedOut(Response):
    """How many memories went, old versions included."""

    deleted: int


class ImportedOut(Response):
    """Rows written, by kind; rows that were there already are not counted."""

    imported: dict[str, int]


class ErasedOut(Response):
    """Rows and training lines removed, by table and file. `trained_adapters` were trained on samples of the user and
    know nothing of the erasure; of `unsure_adapters` nobody can tell, and `deleted_datasets` went whole, because the
    split.key they were made with is lost."""

    erased: dict[str, int]
    trained_adapters: list[str] = Field([])
    unsure_adapters: list[str] = Field([])
    deleted_datasets: bool = False
