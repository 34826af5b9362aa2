"""The shapes of requests; input is parsed strictly and once, here. Answers are plain documents made by the routes."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
)

MAX_TEXTS = 2048
MAX_DOCUMENTS = 1000
MAX_CHARACTERS = 500_000
"""Of one text: more than the longest context there is, less than what would hold up others."""

TAG_MARK = "~"
"""Begins the names of alternatives that the validator puts into the places of errors."""

_ONE, _MANY, _OBJECT = f"{TAG_MARK}one", f"{TAG_MARK}many", f"{TAG_MARK}object"


def _encodable(text: str) -> str:
    """Refuse lone surrogates: they are not characters, and no tokenizer takes them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("contains half a character (a lone surrogate)") from None
    if "\x00" in text:
        raise ValueError("contains the character NUL")
    return text


def _parse_whole(value: Any) -> Any:
    """JSON has one kind of number: 3.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _one_or_many(value: Any) -> str:
    return _MANY if isinstance(value, list) else _ONE


def _text_or_object(value: Any) -> str:
    return _OBJECT if isinstance(value, Mapping | DocumentIn) else _ONE


InputText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS), AfterValidator(_encodable)]
Texts = Annotated[list[InputText], Field(min_length=1, max_length=MAX_TEXTS)]
OneOrManyTexts = Annotated[
    Annotated[InputText, Tag(_ONE)] | Annotated[Texts, Tag(_MANY)],
    Discriminator(_one_or_many),
]
Name = Annotated[str, StringConstraints(max_length=256)]
Whole = BeforeValidator(_parse_whole)


class _Request(BaseModel):
    """Base of bodies of our own: nothing is coerced, nothing unknown is ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _TheirRequest(BaseModel):
    """Base of bodies in others' shapes: fields of theirs that change nothing here are accepted."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class EmbedIn(_Request):
    """Texts to embed."""

    inputs: Texts
    normalise: bool | None = None
    """Unit vectors or not; absent: as the server was started. A model that makes unit vectors always does."""
    truncate: bool = True
    """Whether the end of a text that is too long is left out, and counted; else the request is refused."""
    prompt_name: Name | None = None
    """One of the model's own prompts, which is put before every text; absent: its default one, if any."""


class EmbeddingsIn(_TheirRequest):
    """OpenAI's embeddings request, with `truncate` and `prompt_name` as in `/embed`."""

    input: OneOrManyTexts
    model: Name | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=100_000), Whole] | None = None
    truncate: bool = True
    prompt_name: Name | None = None

    @property
    def texts(self) -> list[str]:
        """The texts in order."""
        return [self.input] if isinstance(self.input, str) else self.input


class DocumentIn(_TheirRequest):
    """A document with fields of the caller's own; only its text is read."""

    text: InputText


AnyDocument = Annotated[
    Annotated[InputText, Tag(_ONE)] | Annotated[DocumentIn, Tag(_OBJECT)],
    Discriminator(_text_or_object),
]


class RerankIn(_TheirRequest):
    """Cohere's and Jina's rerank request."""

    query: InputText
    documents: Annotated[list[AnyDocument], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1, le=MAX_DOCUMENTS), Whole] | None = None
    model: Name | None = None
    return_documents: bool = False
    truncate: bool = True

    @property
    def texts(self) -> list[str]:
        """What to read of each document, in order."""
        return [each.text if isinstance(each, DocumentIn) else each for each in self.documents]
