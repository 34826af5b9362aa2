"""Routes: embeddings, in the service's own shape and in OpenAI's."""

import base64

from fastapi import Request, Response

from serving.api.routing import answer, make_router, metrics_of, model_of, settings_of
from serving.api.schemas import EmbeddingsIn, EmbedIn
from serving.backend import ModelInfo
from serving.engine import Engine, Reading
from serving.errors import InvalidInput, NotFound
from serving.metrics import Metrics
from serving.pooling import Vectors, normalised

router = make_router()


@router.post("/embed")
async def embed(body: EmbedIn, request: Request) -> Response:
    """Vectors of texts: `{embeddings, count, dim, backend, normalised, model, truncated, tokens}`."""
    engine = await model_of(request).engine()
    info = engine.info
    reading = await read_texts(engine, body.inputs, body.prompt_name, metrics_of(request), truncate=body.truncate)
    is_asked = settings_of(request).normalize if body.normalise is None else body.normalise
    vectors = normalised(reading.vectors) if is_asked and not info.is_normalised else reading.vectors
    return answer(
        {
            "embeddings": vectors,
            "count": len(vectors),
            "dim": info.dimension,
            "backend": info.backend,
            "normalised": is_asked or info.is_normalised,
            "model": info.name,
            "truncated": reading.truncated,
            "tokens": reading.tokens,
        }
    )


@router.post("/v1/embeddings")
@router.post("/api/v1/embeddings", operation_id="embeddings_api")
async def embeddings(body: EmbeddingsIn, request: Request) -> Response:
    """OpenAI's embeddings; `usage` counts the tokens read, `truncated` the texts that were cut."""
    engine = await model_of(request).engine()
    info = engine.info
    check_name(body.model, info)
    _check_dimensions(body.dimensions, info)
    reading = await read_texts(engine, body.texts, body.prompt_name, metrics_of(request), truncate=body.truncate)
    vectors = reading.vectors[:, : body.dimensions]
    is_unit = info.is_normalised and vectors.shape[1] == info.dimension
    if not is_unit and (settings_of(request).normalize or info.is_normalised):
        vectors = normalised(vectors)
    rows = _base64(vectors) if body.encoding_format == "base64" else vectors
    return answer(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": info.name,
            "usage": {"prompt_tokens": reading.tokens, "total_tokens": reading.tokens},
            "truncated": reading.truncated,
        }
    )


async def read_texts(
    engine: Engine, texts: list[str], prompt_name: str | None, metrics: Metrics, *, truncate: bool
) -> Reading:
    """The texts, each behind the prompt, read by the model. Raises NotFound when the model has no vectors."""
    if engine.info.kind != "embedding":
        raise NotFound("the model served here scores pairs of texts: it has /rerank and no embeddings")
    prompt = _prompt_of(prompt_name, engine.info)
    reading = await engine.read([prompt + text for text in texts] if prompt else texts, truncate=truncate)
    metrics.truncated.inc(reading.truncated)
    return reading


def check_name(name: str | None, info: ModelInfo) -> None:
    """Raise NotFound unless the name is that of the model, or absent."""
    if name not in {None, info.name}:
        raise NotFound(f"the model served here is {info.name}")


def _prompt_of(name: str | None, info: ModelInfo) -> str:
    if name is None:
        return info.prompts.get(info.default_prompt_name or "", "")
    if name not in info.prompts:
        known = ", ".join(sorted(info.prompts)) or "none"
        raise InvalidInput(f"the model's prompts are: {known}", "prompt_name")
    return info.prompts[name]


def _check_dimensions(dimensions: int | None, info: ModelInfo) -> None:
    if dimensions in {None, info.dimension}:
        return
    assert dimensions is not None
    if not info.is_matryoshka:
        raise InvalidInput(f"{info.name} has {info.dimension} dimensions and cannot be shortened", "dimensions")
    allowed = info.matryoshka_dimensions
    if dimensions > info.dimension or (allowed and dimensions not in allowed):
        what = ", ".join(map(str, allowed)) if allowed else f"1 to {info.dimension}"
        raise InvalidInput(f"{info.name} can have these dimensions: {what}", "dimensions")


def _base64(vectors: Vectors) -> list[str]:
    return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
