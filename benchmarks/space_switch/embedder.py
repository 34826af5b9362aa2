"""An embedding server of the built-in model, for the benchmark.

    python -m benchmarks.space_switch.embedder PORT DATA_DIR DIMENSION

With a DIMENSION above the model's its vectors are turned into a larger space by a fixed matrix with orthonormal
columns: every cosine stays what it is, and the server is as good as another model with as many dimensions.
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import Vectors
from app.domain.errors import Overloaded

DIMENSION = 384
"""Of the built-in model."""


@cache
def turning(dimension: int) -> Vectors:
    """The matrix of shape (384, dimension) that turns the model's vectors."""
    if dimension == DIMENSION:
        return np.eye(DIMENSION, dtype=np.float32)
    square = np.random.default_rng(7).standard_normal((dimension, DIMENSION))
    return np.linalg.qr(square)[0].T.astype(np.float32)


def model_name(dimension: int) -> str:
    """What the server calls its model."""
    return "all-MiniLM-L6-v2" if dimension == DIMENSION else f"all-MiniLM-L6-v2-turned-{dimension}"


def create_app(data_dir: Path, dimension: int) -> Starlette:
    """`POST /embed`, as the service asks it."""
    held: list[OnnxEmbedder] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        held.append(OnnxEmbedder.load(data_dir))
        yield
        await held.pop().aclose()

    async def embed(request: Request) -> Response:
        texts = orjson.loads(await request.body())["inputs"]
        try:
            vectors = await held[0].embed(texts) @ turning(dimension)
        except Overloaded as error:
            return Response(status_code=429, headers={"retry-after": f"{error.retry_after_s:.0f}"})
        answer = {"embeddings": vectors, "model": model_name(dimension)}
        return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    return Starlette(routes=[Route("/embed", embed, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    port, folder, size = sys.argv[1:]
    uvicorn.run(create_app(Path(folder), int(size)), port=int(port), log_level="warning")
