"""What every embedder promises: the same suite on the fake, the built-in model and both kinds of server."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from app.clients.embeddings.http import HttpEmbedder
from app.clients.embeddings.onnx import OnnxEmbedder
from app.ports import Embedder
from tests.embedding_server import embedding_server
from tests.fakes import FakeEmbedder

TEXTS = [
    "The cat sat on the mat.",
    "",
    "A cat is on the mat",
    "Interest rates rose by half a point in March, and the bank expects two more rises this year.",
    "naïve café, 東京タワー, 🎉",
    "word " * 150,
    "half a pair: \ud83d",
]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with embedding_server() as url:
        yield url


@pytest.fixture(scope="module", params=["fake", "onnx", "http", "openai"])
async def embedder(
    request: pytest.FixtureRequest, server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Embedder]:
    match request.param:
        case "onnx":
            made: Embedder = OnnxEmbedder.load(tmp_path_factory.mktemp("data"))
        case "http":
            made = HttpEmbedder(server_url, dims=384)
        case "openai":
            made = HttpEmbedder(server_url + "/v1/embeddings")
        case _:
            made = FakeEmbedder()
    yield made
    await made.aclose()


async def test_vectors_are_unit_rows_of_the_space_in_order(embedder: Embedder) -> None:
    vectors = await embedder.embed(TEXTS)

    assert vectors.shape == (len(TEXTS), embedder.space.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    backwards = await embedder.embed(TEXTS[::-1])
    np.testing.assert_allclose(backwards[::-1], vectors, rtol=0, atol=1e-6)


async def test_a_vector_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    together = await embedder.embed(TEXTS * 2)

    alone = np.concatenate([await embedder.embed([text]) for text in TEXTS])

    np.testing.assert_allclose(together, np.tile(alone, (2, 1)), rtol=0, atol=1e-6)


async def test_concurrent_calls_get_their_own_vectors(embedder: Embedder) -> None:
    expected = await embedder.embed(TEXTS)

    answers = await asyncio.gather(*(embedder.embed([text]) for text in TEXTS * 3))

    np.testing.assert_allclose(np.concatenate(answers), np.tile(expected, (3, 1)), rtol=0, atol=1e-6)


async def test_no_texts_no_rows(embedder: Embedder) -> None:
    vectors = await embedder.embed([])

    assert vectors.shape == (0, embedder.space.dimension)
    assert vectors.dtype == np.float32


async def test_likeness_is_nearness(embedder: Embedder) -> None:
    cat, other_cat, bank = await embedder.embed([TEXTS[0], TEXTS[2], TEXTS[3]])

    assert cat @ other_cat > cat @ bank + 0.2


async def test_tokens_add_up(embedder: Embedder) -> None:
    counts = [embedder.count_tokens([text]) for text in TEXTS]

    assert embedder.count_tokens(TEXTS) == sum(counts)
    assert counts[5] > counts[3] > counts[0] > 0


async def test_a_cancelled_call_harms_nobody(embedder: Embedder) -> None:
    cancelled = asyncio.create_task(embedder.embed(TEXTS * 2))
    await asyncio.sleep(0.01)
    cancelled.cancel()

    vectors = await embedder.embed(TEXTS[:1])

    assert vectors.shape == (1, embedder.space.dimension)
    await asyncio.wait([cancelled])  # cancelled, or quicker than the cancellation


async def test_names_what_it_is(embedder: Embedder) -> None:
    await embedder.embed(["x"])

    assert embedder.backend in {"fake", "onnx", "http"}
    assert str(embedder.space.dimension) in embedder.space.id
