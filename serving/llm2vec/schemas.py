"""The shape of a chat request to the unified runtime: OpenAI's, without what the runtime cannot do."""

from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, model_validator

from serving.slm.schemas import ChatIn, MessageIn

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
}
"""What would change an answer and is not done here, with the values that ask for nothing."""


class StreamOptions(BaseModel):
    """What a stream tells beside the answer."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    include_usage: bool = False


class ConversationIn(ChatIn):
    """OpenAI's chat request; fields that would mislead are refused by their names."""

    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _asks_for_nothing_else(cls, document: Any) -> Any:
        if isinstance(document, dict):
            given = cast("dict[str, Any]", document)
            asked = [name for name, neutral in _NEUTRAL.items() if given.get(name) not in (None, *neutral)]
            if asked:
                raise ValueError(f"this model does not do {', '.join(asked)}: leave it out")
        return cast("Any", document)

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if None not in {self.max_tokens, self.max_completion_tokens} and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens say two things")
        return self

    @property
    def conversation(self) -> list[dict[str, str]]:
        """The messages as a chat template takes them."""
        return [{"role": _ROLES.get(each.role, each.role), "content": _text_of(each)} for each in self.messages]

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema that the answer keeps to; None where it is free."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        return wanted.json_schema.schema_ if wanted.json_schema else {"type": "object"}

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer; None where nothing is said."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


_ROLES = {"developer": "system"}
"""Roles that templates do not know, by those that mean the same."""


def _text_of(message: MessageIn) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content or ())
