"""An answer, written token by token: drawing, decoding, stopping. `Writing` is one answer on its way."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers.decoders import DecodeStream

Logits = NDArray[np.float32]
"""Of every token that may come next: shape (vocabulary,)."""

FinishReason = Literal["stop", "length"]

_PROMPT_TOKENS = 512
"""Of a prompt, read at a time: so often a caller can go."""


class Steps(Protocol):
    """What writes: `Weights`, or a fake of it."""

    tokenizer: Any
    ends: set[int]

    def step(self, tokens: Sequence[int], cache: Any) -> tuple[Logits, Any]:
        """The logits of what may follow, and the cache. Raises LLMRuntimeError."""
        ...


class Guide(Protocol):
    """What an answer has to keep to: `grammar.Grammar`."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing more may follow."""
        ...

    def allowed(self, logits: Logits) -> Logits:
        """The logits, those of tokens that may not come next at minus infinity."""
        ...

    def take(self, token: int) -> None:
        """Go on behind a token that was allowed."""
        ...


@dataclass(frozen=True)
class Token:
    """A token of an answer: what it added to the text, which is nothing in the middle of a character."""

    text: str
    logprob: float
    """As the model gave it, before temperature, nucleus and guide."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    max_new_tokens: int
    temperature: float = 0.0
    """0: always the most probable token."""
    top_p: float = 1.0
    seed: int | None = None
    """The same seed draws the same answer."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    has_logprobs: bool = False
    """Whether the tokens are kept with their probabilities."""


class Writing:
    """Iterates over the pieces of one answer as they are written; each may be taken by another thread."""

    def __init__(self, steps: Steps, prompt: Sequence[int], sampling: Sampling, guide: Guide | None = None) -> None:
        """Nothing is read yet. A `guide` belongs to this answer."""
        self.prompt_tokens = len(prompt)
        self.completion_tokens = 0
        self.tokens: list[Token] = []
        """Those written so far, where the sampling asks for them."""
        self.finish_reason: FinishReason | None = None
        """None until the answer has ended."""
        self._pieces = self._write(steps, prompt, sampling, guide)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next piece, which may be empty: one or several tokens. Raises LLMRuntimeError."""
        return next(self._pieces)

    def close(self) -> None:
        """Write no further, and free what was kept."""
        self._pieces.close()

    def _write(self, steps: Steps, prompt: Sequence[int], sampling: Sampling, guide: Guide | None) -> Generator[str]:
        text = Stopped(sampling.stop)
        decoder = DecodeStream(skip_special_tokens=True)
        draw = _drawer(sampling)
        cache: Any = None
        logits: Logits = np.empty(0, np.float32)
        for start in range(0, len(prompt), _PROMPT_TOKENS):
            logits, cache = steps.step(prompt[start : start + _PROMPT_TOKENS], cache)
            yield ""
        while self.finish_reason is None:
            token = draw(guide.allowed(logits) if guide else logits)
            self.completion_tokens += 1
            if token in steps.ends:
                self.finish_reason = "stop"
                break
            if guide:
                guide.take(token)
            piece = decoder.step(steps.tokenizer.backend_tokenizer, token) or ""
            if sampling.has_logprobs:
                self.tokens.append(Token(piece, float(logits[token] - np.logaddexp.reduce(logits))))
            yield text.add(piece)
            if text.is_stopped or (guide and guide.is_complete):
                self.finish_reason = "stop"
            elif self.completion_tokens >= sampling.max_new_tokens:
                self.finish_reason = "length"
            else:
                logits, cache = steps.step([token], cache)
        yield text.rest()


class Stopped:
    """A text that ends before the first of the given ones to be complete; what may begin one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def add(self, piece: str) -> str:
        """What of the text so far is certain now; nothing more once it has stopped."""
        if self.is_stopped:
            return ""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def _drawer(sampling: Sampling) -> Callable[[Logits], int]:
    """A function from logits to a token, with dice of its own."""
    if sampling.temperature == 0:
        return lambda logits: int(np.argmax(logits))
    dice = np.random.default_rng(sampling.seed if sampling.seed is None else sampling.seed % 2**63)

    def draw(logits: Logits) -> int:
        scores = logits.astype(np.float64) / sampling.temperature
        odds = np.exp(scores - scores.max())
        order = np.argsort(-odds, kind="stable")
        share = np.cumsum(odds[order]) / odds.sum()
        # The fewest tokens that have `top_p` together: of holtzman2020's nucleus, https://arxiv.org/abs/1904.09751
        kept = order[: int(np.searchsorted(share, sampling.top_p)) + 1]
        return int(dice.choice(kept, p=odds[kept] / odds[kept].sum()))

    return draw
