"""Routes: embeddings, in OpenAI's shape and in the service's own."""

import asyncio
import base64

import numpy as np

from app.api import schemas
from app.api.bounds import open_to_bound_keys
from app.api.deps import Services, ServicesDep, UserCaller
from app.api.errors import responses
from app.api.routing import make_router
from app.domain.embeddings import Vectors
from app.domain.errors import InvalidInput

router = make_router("embeddings")


@router.post("/v1/embeddings", responses=responses())
@open_to_bound_keys
async def create_embeddings(
    body: schemas.EmbeddingsIn, services: ServicesDep, caller: UserCaller
) -> schemas.EmbeddingsOut:
    """OpenAI's embeddings."""
    return await _create(body, services)


@router.post("/api/v1/embeddings", responses=responses())
@open_to_bound_keys
async def create_embeddings_api(
    body: schemas.EmbeddingsIn, services: ServicesDep, caller: UserCaller
) -> schemas.EmbeddingsOut:
    """OpenAI's embeddings, under the path other servers use."""
    return await _create(body, services)


@router.post("/embed", responses=responses())
@open_to_bound_keys
async def embed(body: schemas.EmbedIn, services: ServicesDep, caller: UserCaller) -> schemas.EmbedOut:
    """Vectors of texts. The built-in model's are always of unit length, whatever `normalise` says."""
    vectors = await services.embedder.embed(body.inputs)
    space = services.embedder.space
    return schemas.EmbedOut(
        embeddings=_floats(vectors),
        count=len(vectors),
        dim=space.dimension,
        backend=services.embedder.backend,
        normalised=space.is_normalised,
        model=space.model,
    )


async def _create(body: schemas.EmbeddingsIn, services: Services) -> schemas.EmbeddingsOut:
    space = services.embedder.space
    if body.model not in {None, space.model}:
        raise InvalidInput(f"the model served here is {space.model}", "model")
    if body.dimensions not in {None, space.dimension}:
        raise InvalidInput(f"{space.model} has {space.dimension} dimensions and cannot be shortened", "dimensions")
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = await services.embedder.embed(texts)
    tokens = await asyncio.to_thread(services.embedder.count_tokens, texts)
    encoded = _base64(vectors) if body.encoding_format == "base64" else _floats(vectors)
    return schemas.EmbeddingsOut(
        data=[schemas.EmbeddingOut(index=index, embedding=item) for index, item in enumerate(encoded)],
        model=space.model,
        usage=schemas.Usage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _floats(vectors: Vectors) -> list[list[float]]:
    return vectors.tolist()


def _base64(vectors: Vectors) -> list[str]:
    return [base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode() for vector in vectors]
