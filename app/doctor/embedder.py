"""The embedding model: does it answer, how soon, and can its vectors be compared with the stored ones."""

import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass

from app.doctor.check import Check, Unfit, counted
from app.domain.embeddings import EmbeddingSpace
from app.domain.errors import DomainError
from app.settings import Settings
from app.store.engine import describe
from app.wiring import open_embedder


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    """A model that answered."""

    space: EmbeddingSpace
    backend: str
    text_ms: float


async def measure_embedder(settings: Settings) -> EmbedderFacts:
    """Load or reach the model and embed a text. Raises Unfit."""
    try:
        return await _measure(settings)
    except DomainError as error:
        if settings.embed_endpoint is None:
            raise Unfit(str(error), "make install") from error
        address = describe(settings.embed_endpoint)
        if settings.embed_dims is not None:
            with suppress(DomainError):
                facts = await _measure(settings.model_copy(update={"embed_dims": None}))
                raise Unfit(
                    f"{address} answers with {facts.space.dimension} dimensions and EMBED_DIMS={settings.embed_dims}",
                    f"EMBED_DIMS={facts.space.dimension}, or unset it",
                ) from error
        mend = "start that server, check EMBED_ENDPOINT, or unset it for the built-in model"
        raise Unfit(str(error), mend) from error


async def _measure(settings: Settings) -> EmbedderFacts:
    embedder = await open_embedder(settings)
    async with aclosing(embedder):
        await embedder.embed(["a first text, while everything is cold"])
        started = time.perf_counter()
        await embedder.embed(["How long does one short text take?"])
        space = settings.embed_labels.of(embedder.space)
        return EmbedderFacts(space, embedder.backend, (time.perf_counter() - started) * 1000)


def judge_embedder(facts: EmbedderFacts) -> Check:
    """A model that answered."""
    space = facts.space
    found = f"{space.model} ({facts.backend}), {space.dimension} dimensions, {facts.text_ms:.1f} ms for one text"
    return Check("embedder", "ok", found)


def judge_vectors(spaces: Mapping[str, int] | None, space: EmbeddingSpace) -> Check:
    """Whether the memories are where tenants begin; others are searched as well, by a model that has to be there."""
    part = "stored vectors"
    if spaces is None:
        return Check(part, "off", "not counted: too many rows for a short look, or not readable")
    others = {name: count for name, count in spaces.items() if name != space.id}
    own = spaces.get(space.id, 0)
    if not others:
        return Check(
            part, "ok", f"{counted(own, 'memory', 'memories')} in the embedder's space" if own else "no memories yet"
        )
    elsewhere = ", ".join(f"{count:,} in {name}" for name, count in others.items())
    found = f"{own:,} in the embedder's space {space.id}; in another, which its own model has to embed in: {elsewhere}"
    mend = "embed-service space status; to bring them into this one: embed-service space create"
    return Check(part, "warning", found, mend)
