"""The shapes a model has to answer in: a JSON schema for the server, and the same checked once when it comes back."""

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints, ValidationError

from app.domain.errors import ModelUnavailable
from app.domain.extracting import MOST_STATEMENTS, TYPES
from app.domain.instructions import MAX_CITED, MAX_LINE, MOST_RELEVANCE, WISHES
from app.domain.memory import MemoryType

MAX_FENCED = 8
"""Fenced blocks that are looked at; a model that rambles writes thousands."""
SPARE = 1.15
"""Some servers' grammars allow spaces between the parts of JSON."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Schema = Mapping[str, Any]
A = TypeVar("A", bound=BaseModel)


def cleaned(text: str) -> str:
    """`text` without control characters but for line ends and tabs: no database holds them, and nobody reads them."""
    return _CONTROL.sub(" ", text)


def _clipped(value: Any) -> Any:
    return " ".join(cleaned(value).split())[:MAX_LINE] if isinstance(value, str) else value


Line = Annotated[str, BeforeValidator(_clipped), StringConstraints(min_length=3)]


class Proposal(BaseModel):
    """One reading as a model words it; `memories` are numbers of the prompt, `confidence` is 0..100."""

    question: Line
    request: Line
    memories: list[int] = Field(default_factory=list[int])
    confidence: Annotated[float, Field(ge=0, le=100)] = 50.0


class Proposals(BaseModel):
    """Readings, best first."""

    hypotheses: Annotated[list[Proposal], Field(min_length=1, max_length=20)]


class Enrichment(BaseModel):
    """What a request implies."""

    implicit_goals: Annotated[list[Line], Field(max_length=20)]
    inferred_expertise_level: Literal["beginner", "intermediate", "expert"]
    next_steps: Annotated[list[Line], Field(max_length=20)]


class Questions(BaseModel):
    """Follow-up questions."""

    questions: Annotated[list[Line], Field(min_length=1, max_length=20)]


class Relevances(BaseModel):
    """A number for each document, 0..10."""

    relevance: list[Annotated[float, Field(ge=0, le=MOST_RELEVANCE)]]


class Wishes(BaseModel):
    """How much of each facet is wanted, in the words of WISHES."""

    facets: dict[str, Literal["much less", "less", "same", "more", "much more"]]


class Statement(BaseModel):
    """What a user states, as a model words it; `turn` is a number of the prompt, `confidence` is 0..100."""

    turn: int
    quote: Line
    type: MemoryType
    content: Line
    confidence: Annotated[float, Field(ge=0, le=100)] = 70.0


class Statements(BaseModel):
    """What users state."""

    statements: Annotated[list[Statement], Field(max_length=20)]


def statements_schema(turns: int) -> Schema:
    """For what users state in so many turns."""
    statement = _object(
        turn={"type": "integer", "minimum": 1, "maximum": turns},
        quote=_text(MAX_LINE),
        type={"enum": list(TYPES)},
        content=_text(MAX_LINE),
        confidence={"type": "integer", "minimum": 0, "maximum": 100},
    )
    return _object(statements=_array(statement, 0, MOST_STATEMENTS))


def hypotheses_schema(count: int) -> Schema:
    """For `count` readings."""
    reading = _object(
        request=_text(MAX_LINE),
        question=_text(MAX_LINE),
        memories=_array({"type": "integer", "minimum": 1, "maximum": 12}, 0, MAX_CITED),
        confidence={"type": "integer", "minimum": 0, "maximum": 100},
    )
    return _object(hypotheses=_array(reading, count, count))


def enrichment_schema() -> Schema:
    """For what a request implies."""
    return _object(
        implicit_goals=_array(_text(120), 1, 3),
        inferred_expertise_level={"enum": ["beginner", "intermediate", "expert"]},
        next_steps=_array(_text(160), 1, 3),
    )


def questions_schema(count: int) -> Schema:
    """For `count` questions."""
    return _object(questions=_array(_text(160), count, count))


def relevances_schema(count: int) -> Schema:
    """For `count` whole numbers."""
    number = {"type": "integer", "minimum": 0, "maximum": MOST_RELEVANCE}
    return _object(relevance=_array(number, count, count))


def wishes_schema(facets: Sequence[str]) -> Schema:
    """For a wish per facet."""
    return _object(facets=_object(**{name: {"enum": list(WISHES)} for name in sorted(facets)}))


def most_tokens(schema: Schema) -> int:
    """Tokens that the longest answer of a schema may take, at one for each character of a text: a model that lost
    its way writes digits. So an answer ends by its grammar, never by a limit that cuts it in the middle."""
    return int(SPARE * _most_characters(schema)) + 16


def as_text(schema: Schema | None) -> str:
    """A schema as a model reads it."""
    return orjson.dumps(schema).decode()


def parse(text: str, kind: type[A]) -> A:
    """The answer in `text`: JSON, or JSON within other words. Raises ModelUnavailable: `broken_answer` for what
    is no JSON, `wrong_shape` for JSON of another shape."""
    for candidate in _candidates(text):
        try:
            document = orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
        try:
            return kind.model_validate(document)
        except ValidationError as error:
            raise ModelUnavailable(
                f"the answer has another shape ({error.error_count()} faults)", "wrong_shape"
            ) from None
    raise ModelUnavailable("the answer is no JSON", "broken_answer")


def _candidates(text: str) -> list[str]:
    """Where JSON may be: the whole text, a fenced block, or from the first brace to the last."""
    fenced = [found[1] for found in islice(re.finditer(r"```(?:json)?(.*?)```", text, re.DOTALL), MAX_FENCED)]
    start, end = text.find("{"), text.rfind("}")
    return [text, *fenced, text[start : end + 1] if 0 <= start < end else ""]


def _most_characters(schema: Schema) -> int:
    if "enum" in schema:
        return 2 + max(len(str(value)) for value in schema["enum"])
    match schema["type"]:
        case "string":
            return 2 + int(schema["maxLength"])
        case "array":
            return 2 + int(schema["maxItems"]) * (1 + _most_characters(schema["items"]))
        case "object":
            return 2 + sum(4 + len(name) + _most_characters(each) for name, each in schema["properties"].items())
        case _:
            return 4


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _array(items: Schema, fewest: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": fewest, "maxItems": most}


def _text(longest: int) -> Schema:
    return {"type": "string", "minLength": 3, "maxLength": longest}
