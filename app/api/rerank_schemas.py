"""The shapes of reranking: Cohere's and Jina's."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints
from pydantic import Tag as Alternative

from app.api.schemas import (
    MAX_BATCH,
    NO_NUL,
    TAG_MARK,
    WHOLE,
    InputText,
    Response,
    Share,
)

_TEXT, _OBJECT = f"{TAG_MARK}text", f"{TAG_MARK}object"


class DocumentIn(BaseModel):
    """A document with fields of the caller's own; only its text is read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    text: InputText


def _text_or_object(value: Any) -> str:
    return _OBJECT if isinstance(value, Mapping | DocumentIn) else _TEXT


AnyDocument = Annotated[
    Annotated[InputText, Alternative(_TEXT)] | Annotated[DocumentIn, Alternative(_OBJECT)],
    Discriminator(_text_or_object),
]
"""A text alone, or in an object: told apart by what it is, so that errors speak of the one that was meant."""


class RerankIn(BaseModel):
    """Cohere's and Jina's rerank request. Fields of theirs that change nothing here are accepted; so is any `model`,
    for one alone is served, and the answer names it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    query: InputText
    documents: Annotated[list[AnyDocument], Field(min_length=1, max_length=MAX_BATCH)]
    top_n: Annotated[int, Field(ge=1, le=MAX_BATCH), WHOLE] | None = None
    model: Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)] | None = None
    return_documents: bool = False

    @property
    def texts(self) -> list[str]:
        """What to read of each document, in order."""
        return [document.text if isinstance(document, DocumentIn) else document for document in self.documents]


class DocumentOut(Response):
    """A document as it was sent."""

    text: str


class RerankResult(Response):
    """A document's place in the request and its relevance; itself only where that was asked for."""

    index: int
    relevance_score: Share
    document: DocumentOut | None = None


class RerankOut(Response):
    """The documents most relevant to the query, best first; `degraded` when another reranker stood in for the
    configured one."""

    id: str
    model: str
    results: list[RerankResult]
    degraded: bool
