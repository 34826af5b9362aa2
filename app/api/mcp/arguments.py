"""What the tools take and give. None of them takes a user or a tenant: those are the caller's key's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import BaseModel, Field

from app.api import schemas
from app.api.schemas import (
    WHOLE,
    FacetName,
    HypothesisId,
    Id,
    InputText,
    Kind,
    Moment,
    OptionalText,
    Request,
    Response,
    Share,
    Tag,
    Text,
)
from app.domain.memory import MemoryType

Schema = dict[str, Any]

MAX_RECALLED = 50
MAX_RECALLED_TOKENS = 6_000
"""Of memories in one answer: an assistant's window holds other things, too."""

MAX_BUDGET = 16_000
"""Tokens of one enriched prompt."""


class RememberIn(Request):
    """One fact."""

    content: Text = Field(
        description="The fact as one self-contained sentence in the user's own words, e.g. `I live in Lyon`."
    )
    type: Kind = Field(
        description="PROFILE who they are; PREFERENCE what they like or use; GOAL what they want to reach; CONSTRAINT "
        "what must always hold; STYLE how they want answers; ARTIFACT a document, file or code they refer to; "
        "HISTORY what happened."
    )
    confidence: Share = Field(0.8, description="How sure it is, 0 to 1; near 1 only for what the user said outright.")
    tags: Annotated[list[Tag], Field(max_length=32)] = Field([], description="Words to find it by later.")
    valid_from: Moment | None = Field(None, description="Since when it is true, if not since now (RFC 3339).")
    valid_to: Moment | None = Field(None, description="Until when it is true, if that is known (RFC 3339).")
    expires_at: Moment | None = Field(None, description="When it is to be forgotten by itself (RFC 3339).")


class RememberOut(Response):
    """What became of it."""

    memory_id: UUID = Field(description="The memory that holds the fact now.")
    is_new: bool = Field(description="False where the same was known already.")
    superseded: list[UUID] = Field(description="Memories that contradicted it and are no longer current.")


class RecallIn(Request):
    """A question to the user's memories."""

    query: InputText = Field(description="What to look for, in plain words: the question at hand works best.")
    limit: Annotated[int, Field(ge=1, le=MAX_RECALLED), WHOLE] = Field(8, description="At most so many memories.")
    types: Annotated[list[Kind], Field(min_length=1, max_length=7)] | None = Field(
        None, description="Only memories of these types."
    )
    tags: Annotated[list[Tag], Field(min_length=1, max_length=32)] | None = Field(
        None, description="Only memories with all of these tags."
    )
    as_of: Moment | None = Field(None, description="What was true at this moment (RFC 3339), instead of now.")
    token_budget: Annotated[int, Field(ge=1, le=MAX_RECALLED_TOKENS), WHOLE] = Field(
        1000, description="Most tokens of what the memories say together; one that does not fit is left out whole."
    )


class RecalledOut(Response):
    """One memory. `score` 0 to 1: how well it answers the query."""

    memory_id: UUID
    type: MemoryType
    content: str
    confidence: float
    score: float
    tags: list[str]
    valid_from: datetime


class RecallOut(Response):
    """The memories that answer best, best first."""

    memories: list[RecalledOut]
    left_out: int = Field(
        description="Found, and left out because `token_budget` has no room: ask more narrowly, or allow more."
    )
    degraded: bool = Field(description="Found by words alone, because the embedding model does not answer.")


class ForgetIn(Request):
    """One memory."""

    memory_id: Id = Field(description="Its id, as `recall` or `remember` gave it.")


class ForgetOut(Response):
    """What went."""

    deleted: int = Field(description="The memory and its earlier versions.")


class TurnIn(Request):
    """One message of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: OptionalText


class HypothesizeIn(Request):
    """A short or vague request."""

    input_text: InputText = Field(description="The user's request, word for word.")
    conversation: Annotated[list[TurnIn], Field(max_length=50)] = Field([], description="The last turns before it.")
    count: Annotated[int, Field(ge=1, le=5), WHOLE] = Field(3, description="At most so many hypotheses.")


class HypothesizeOut(Response):
    """What the request may mean, likeliest first, and what to do about it."""

    hypothesis_set_id: UUID
    decision: Literal["ask", "auto_advance", "proceed"] = Field(
        description="ask: put the questions to the user. auto_advance: go on with the first one without asking. "
        "proceed: the request is clear enough as it is."
    )
    clarification_need: Share
    hypotheses: list[schemas.HypothesisOut]
    calibration_version: int = Field(description="Of the calibration that their confidences come from; 0 is the prior.")
    degraded: bool


class ExecuteIn(Request):
    """What the user settled on."""

    input_text: InputText = Field(description="The user's request, word for word, as given to `hypothesize`.")
    hypothesis_set_id: Id | None = Field(None, description="From `hypothesize`, where it was asked.")
    hypothesis_id: HypothesisId | None = Field(None, description="The chosen one of the set, e.g. `h1`.")
    custom_answer: Text | None = Field(None, description="The user's own words, where none of the set was meant.")
    token_budget: Annotated[int, Field(ge=256, le=MAX_BUDGET), WHOLE] | None = Field(
        None, description="At most so many tokens of prompt."
    )


class ExecuteOut(Response):
    """The request with all that is known about the user and matters for it, ready to be answered."""

    execution_id: UUID = Field(description="For `feedback`.")
    enriched_prompt: str
    tokens_estimate: int
    memories_used: list[schemas.MemoryUse]
    redactions: dict[str, int] = Field(description="Secrets that were hidden, by kind.")
    degraded: bool


class FeedbackIn(Request):
    """How the user received it."""

    execution_id: Id | None = Field(None, description="What it is about: an execution.")
    hypothesis_set_id: Id | None = Field(None, description="What it is about: a hypothesis set.")
    success: bool | None = Field(None, description="Whether the user got what they wanted.")
    rating: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = Field(None, description="-1 to 1.")
    comment: OptionalText = Field("", description="What the user said about it, word for word.")
    rejected_ids: Annotated[list[HypothesisId], Field(max_length=10)] = Field(
        [], description="Hypotheses of the set that the user turned down."
    )


class FeedbackOut(Response):
    """What was learned."""

    facet_deltas: dict[str, float] = Field(description="How far each facet of the persona moved.")


class PersonaIn(Request):
    """Nothing."""


class FacetOut(Response):
    """One facet: 0 to 1, 0.5 is neutral. Only one with `is_expressed` is sure enough to act on."""

    name: str
    value: float
    uncertainty: float
    is_expressed: bool
    evidence: int = Field(description="How many of their choices and remarks speak of it.")
    is_told: bool = Field(description="Whether it is what the user said of themselves.")
    is_pinned: bool = Field(description="Whether only the user may change it.")


class PersonaOut(Response):
    """How the user likes to be answered."""

    facets: list[FacetOut]
    is_known: bool = Field(description="False where nothing is known about this user yet.")


class PersonaChangeIn(Request):
    """What the user wants changed."""

    facets: Annotated[dict[FacetName, Share], Field(max_length=64)] = Field(
        {}, description="Facets to set, by name: 0 to 1, 0.5 is neutral, e.g. `concise` 0.9 for short answers."
    )
    pinned: Annotated[dict[FacetName, bool], Field(max_length=64)] = Field(
        {}, description="True: nothing but the user changes the facet from now on. False: it is learned again."
    )
    deleted: Annotated[list[FacetName], Field(max_length=64)] = Field(
        [], description="Facets of which everything that is known is deleted; there is no undo."
    )


def schema_of(model: type[BaseModel], *, is_output: bool = False) -> Schema:
    """A model's JSON schema without references and titles: clients do not all follow them."""
    made = model.model_json_schema(mode="serialization" if is_output else "validation")
    return _plain(made, made.pop("$defs", {}))


def _plain(schema: Any, definitions: Mapping[str, Any], *, are_names: bool = False) -> Any:
    """`are_names`: the keys are names of properties, and `title` may be one."""
    if isinstance(schema, list):
        return [_plain(each, definitions) for each in cast(list[Any], schema)]
    if not isinstance(schema, dict):
        return schema
    given = cast(Schema, schema)
    if "$ref" in given:
        name = str(given["$ref"]).rsplit("/", 1)[-1]
        given = definitions[name] | {key: value for key, value in given.items() if key != "$ref"}
    return {
        key: _plain(value, definitions, are_names=key == "properties" and not are_names)
        for key, value in given.items()
        if are_names or key != "title"
    }
