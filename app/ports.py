"""What the services need from outside: models, a tokenizer, a clock.

Each Protocol has a real implementation under `app/clients` and a fake in the tests, and one contract suite
that runs on both.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.hypotheses import HypothesisContext, Reading
from app.domain.labels import Weighed
from app.domain.manifest import Model
from app.domain.persona import Signal
from app.domain.turns import Stated, Utterance


class Clock(Protocol):
    """The current moment. Decisions get it as an argument, so tests can set it."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""
        return datetime.now(UTC)


class Embedder(Protocol):
    """Turns texts into vectors of one embedding space."""

    @property
    def space(self) -> EmbeddingSpace:
        """The space all its vectors live in."""
        ...

    @property
    def backend(self) -> str:
        """What computes the vectors, e.g. `onnx` or `http`."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), dimension), in order; each independent of its neighbours.

        Raises ModelUnavailable when the model cannot answer, Overloaded when its queue is full.
        """
        ...

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many of the model's own tokens the texts have, for usage reports."""
        ...

    async def aclose(self) -> None:
        """Finish what is running and free the model."""
        ...


class Tokenizer(Protocol):
    """Counts tokens as a language model would."""

    def count(self, text: str) -> int:
        """Number of tokens of `text`; 0 for the empty string."""
        ...

    def truncate(self, text: str, max_tokens: int) -> str:
        """The longest prefix of `text` with at most `max_tokens` tokens, cut at a character boundary."""
        ...


class Reranker(Protocol):
    """Scores documents against a query with a model that reads both."""

    @property
    def model(self) -> str:
        """What computes the scores."""
        ...

    async def rerank(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        """One relevance in 0..1 per document, in order. Raises ModelUnavailable."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and models."""
        ...


class SLM(Protocol):
    """The small language model behind the service's judgements."""

    @property
    def name(self) -> str:
        """`local`, `vllm`, …: what the API reports as `source`."""
        ...

    @property
    def model(self) -> str | None:
        """The model that answers, as its server calls it; None for rules, or where the server was not asked yet."""
        ...

    @property
    def prompt_version(self) -> str | None:
        """The version of the prompts its answers come from; None for rules, which take their time from nobody."""
        ...

    @property
    def state(self) -> str:
        """Its circuit breaker's: `closed`, `open` or `half_open`."""
        ...

    async def propose_readings(self, context: HypothesisContext, adapter: str | None = None) -> Sequence[Reading]:
        """Candidate readings of an input, best first, each with its evidence; by the adapter of that name where one is
        given and the model has any. As all of them, raises ModelUnavailable when the model cannot answer in the
        request's time; with the cause `unknown_adapter` where its server does not have the adapter."""
        ...

    async def weigh_readings(self, context: HypothesisContext, readings: Sequence[Reading]) -> Weighed | None:
        """How likely each reading is what the user means, by the probabilities of the model itself: log-odds against
        none of them, in order. None where there are none to be had, as of rules. It does not matter in which order the
        readings come, as far as the model does not mind."""
        ...

    async def compute_facet_updates(self, signal: Signal) -> Mapping[str, float]:
        """How far each facet should move, in -1..1, for one signal."""
        ...

    async def summarize(self, texts: Sequence[str], max_tokens: int) -> str:
        """The gist of `texts` in at most `max_tokens` tokens."""
        ...

    async def enrich_context(self, context: HypothesisContext) -> Mapping[str, object]:
        """`implicit_goals`, `inferred_expertise_level` and `next_steps` of an input."""
        ...

    async def generate_followup_questions(
        self, conversation_context: str, context: HypothesisContext, count: int
    ) -> Sequence[str]:
        """Up to `count` questions that move the conversation on."""
        ...

    async def extract(self, said: Sequence[Utterance]) -> Sequence[Stated]:
        """What users state of themselves in turns of a conversation, each with the words that say so."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and processes."""
        ...


Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, with their values, as they stand in HTTP."""


class UpstreamAnswer(Protocol):
    """The beginning of an upstream's answer: all but its body."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Headers:
        """Every header, hop-by-hop ones too."""
        ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, in the encoding it comes in. Raises UpstreamUnavailable where it breaks off."""
        ...

    async def aclose(self) -> None:
        """End the request, and have the upstream see that, if it is not over."""
        ...


class Upstream(Protocol):
    """The model server that chats are passed on to."""

    async def ask(self, method: str, path: str, headers: Headers, body: bytes = b"") -> UpstreamAnswer:
        """The answer to a request, as soon as it begins; `path` with its query is put behind the server's address, and
        the server's own key is put to `headers`. Raises UpstreamUnavailable where none begins."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class AdapterServer(Protocol):
    """A model server that takes LoRA adapters while it runs. All raise ModelUnavailable when it does not answer."""

    @property
    def base_model(self) -> str:
        """The model that the adapters have to be made for, as the server calls it."""
        ...

    async def load(self, adapter: str, folder: Path) -> None:
        """Take in an adapter under a name, and see that it answers; nothing where it is there already. A name stands
        for the same weights for ever. Raises AdapterRefused where the server will not have it."""
        ...

    async def unload(self, adapter: str) -> None:
        """Let an adapter go; nothing where it is not there."""
        ...

    async def loaded(self) -> frozenset[str]:
        """The names of the adapters it can answer with."""
        ...


@dataclass(frozen=True)
class JudgedAnswer:
    """A model's readings, best first: the `requests`, the whole answer as `text`, and the `seconds` it took."""

    requests: tuple[str, ...]
    text: str
    seconds: float


class Judged(Protocol):
    """A model that is judged: what it finds likely, and what it answers. `messages` are a chat prompt. All raise
    ModelUnavailable."""

    async def likelihoods(self, messages: Sequence[Mapping[str, str]], requests: Sequence[str]) -> list[float]:
        """For each request, as the first reading's, the mean log-probability of its tokens (nats, at most 0)."""
        ...

    async def answer(self, messages: Sequence[Mapping[str, str]], count: int) -> JudgedAnswer:
        """The answer with `count` readings that the service would get, at temperature 0."""
        ...

    async def is_valid_unaided(self, messages: Sequence[Mapping[str, str]], count: int) -> bool:
        """Whether an answer has its shape, with `count` readings, where no grammar makes sure of it."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far the bringing of a model is: what is done, and how many bytes of how many; None is not known yet."""

    stage: str
    done: int = 0
    total: int | None = None


@dataclass(frozen=True)
class Provisioned:
    """A model that is there: whether it was or had to be brought, in words what was found, how many bytes were
    brought, where it lies on this machine, and the SHA-256 of files that were hashed."""

    action: Literal["present", "downloaded"]
    detail: str
    downloaded_bytes: int = 0
    place: Path | None = None
    hashes: Mapping[str, str] = field(default_factory=dict[str, str])


class ModelProvider(Protocol):
    """Where models come from: a server that holds them, a hub, or this machine's disk."""

    async def provision(self, model: Model, tell: Callable[[Progress], None], *, force: bool = False) -> Provisioned:
        """See that a model is there, and bring it where it is not and may be brought. `force` takes nothing on trust:
        what is there is hashed, or pulled, again. Raises ProvisionFailed; what was brought by then is kept, and the
        next call goes on there."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
