"""Sampling: how a role's model picks its tokens. What is None is left to the call or to the server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """A role's parameters, in the words of OpenAI's chat protocol."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
