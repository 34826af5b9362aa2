"""The shape of a chat request. What OpenAI has and llama.cpp knows goes through; what would mislead is refused here."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from serving.api.schemas import MAX_CHARACTERS, TAG_MARK, Name, OneOrManyTexts, Whole

_TEXT, _PARTS = f"{TAG_MARK}text", f"{TAG_MARK}parts"


class _Open(BaseModel):
    """A part of a request whose other fields are llama.cpp's to understand."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class TextPart(_Open):
    """A part of a message; this server reads texts only."""

    type: Literal["text"]
    text: str


class MessageIn(_Open):
    """One message; `content` may be absent where an assistant called tools."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[
            Annotated[str, Tag(_TEXT)] | Annotated[list[TextPart], Tag(_PARTS)],
            Discriminator(lambda value: _PARTS if isinstance(value, list) else _TEXT),
        ]
        | None
    ) = None


class JsonSchemaIn(_Open):
    """A JSON schema that the answer keeps to."""

    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormatIn(_Open):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaIn | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self


class ChatIn(_Open):
    """OpenAI's chat request."""

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=2048)]
    model: Name | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Field(ge=1), Whole] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1), Whole] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Whole] | None = None
    stop: OneOrManyTexts | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), Whole] | None = None
    response_format: ResponseFormatIn | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_readable(cls, document: Any) -> Any:
        characters = 0
        for text in _texts_in(document):
            if "\x00" in text:
                raise ValueError("contains the character NUL")
            characters += len(text)
        if characters > MAX_CHARACTERS:
            raise ValueError(f"the conversation may have at most {MAX_CHARACTERS:,} characters")
        return document


def _texts_in(value: Any) -> Iterator[str]:
    """Every string of a JSON document, names included."""
    waiting: list[Any] = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            waiting += [*cast("dict[str, Any]", each).keys(), *cast("dict[str, Any]", each).values()]
        elif isinstance(each, list):
            waiting += cast("list[Any]", each)
