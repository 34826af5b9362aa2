"""The shapes of recalls and of statements that were set apart."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from app.api.memory_schemas import MemoryOut, SearchResult
from app.api.schemas import Id, Request, Response
from app.domain.memory import MemoryType


class ReceiptItem(Response):
    """A memory that was recalled, and what it was ranked by then: no `score` where it holds whatever is asked."""

    id: UUID
    score: float | None
    similarity: float | None
    recency: float | None
    confidence: float | None
    cosine: float | None
    rerank: float | None
    redundancy: float | None
    memory: MemoryOut | None = Field(
        description="As it was known when it was shown: of one changed since, the earlier version, which has an "
        "id of its own; null where it was deleted."
    )
    current: MemoryOut | None = Field(None, description="As it is now; null where it was deleted.")
    quote: str | None = Field(description="The words that told it then: its own, where it was told as it is.")
    age_days: float | None = Field(description="How long it had been true.")
    is_valid: bool | None = Field(description="Whether what was shown is true now.")
    is_helpful: bool | None = Field(description="What somebody said of it; null where nobody did.")


class RecallOut(Response):
    """What was recalled, once."""

    recall_id: UUID
    user_id: str
    kind: Literal["search", "execute", "chat"]
    query: str
    asked_at: datetime
    as_of: datetime
    space: str
    degraded: bool
    memory_ids: list[UUID]


class RecallsOut(Response):
    """Recalls, and the `cursor` of the page after them; null where there is none."""

    recalls: list[RecallOut]
    cursor: str | None


class ReceiptOut(Response):
    """A recall and its memories, best first."""

    recall: RecallOut
    memories: list[ReceiptItem]


class ReplayOut(Response):
    """A recall done again, by what was known then and by what is known now."""

    recall: RecallOut
    is_same: bool = Field(description="Whether what was known then gives what was shown then.")
    then: list[SearchResult]
    now: list[SearchResult]


class RecallFeedbackIn(Request):
    """Which of the memories of a recall were helpful."""

    helpful_ids: Annotated[list[Id], Field(max_length=100)]


class SetApartOut(Response):
    """A statement that did not pass the write gate."""

    id: UUID
    user_id: str
    type: MemoryType
    content: str
    quote: str | None
    reason: Literal["unspecific", "perishable", "unsupported"]
    source: str
    valid_from: datetime
    created_at: datetime


class QuarantineOut(Response):
    """Statements that were set apart, and the `cursor` of the page after them; null where there is none."""

    statements: list[SetApartOut]
    cursor: str | None
