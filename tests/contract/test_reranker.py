"""What every reranker promises: the same suite on the built-in rules, on cross-encoders in this process, made from
weights and exported, and on a server asked in both ways."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.clients.rerank.cross_encoder import CrossEncoderReranker
from app.clients.rerank.local import LocalReranker
from app.clients.rerank.server import ServerReranker
from app.ports import Reranker
from scripts.make_reference_reranks import write_cross_encoder
from tests.fakes import FakeEmbedder
from tests.rerank_server import rerank_server
from tests.weights import MINILM

TINY = Path(__file__).parents[1] / "data" / "tiny_cross_encoder"

QUERY = "how do I repair the chain of my bicycle?"
DOCUMENTS = [
    "Turn the bicycle upside down and repair the chain.",
    "",
    "Interest rates rose by half a point in March.",
    "chain",
    "naïve café, 東京タワー, 🎉, \u202eright to left\u202c, e\u0301",
    "my chain " * 3000,
    "half a pair: \ud83d",
    "a NUL \0 and a [SEP] and a [CLS]",
    "Turn the bicycle upside down and repair the chain.",
]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with rerank_server() as (url, _):
        yield url


@pytest.fixture(scope="module", params=["local", "weights", "exported", "rerank", "score"])
async def reranker(
    request: pytest.FixtureRequest, server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Reranker]:
    match request.param:
        case "weights":
            folder = tmp_path_factory.mktemp("model")
            write_cross_encoder(MINILM, folder)
            made: Reranker = CrossEncoderReranker.load(folder, tmp_path_factory.mktemp("data"))
        case "exported":
            made = CrossEncoderReranker.load(TINY, tmp_path_factory.mktemp("data"))
        case "rerank":
            made = ServerReranker(server_url)
        case "score":
            made = ServerReranker(server_url + "/score")
        case _:
            made = LocalReranker(FakeEmbedder())
    yield made
    await made.aclose()


async def test_one_relevance_for_each_document_in_order(reranker: Reranker) -> None:
    relevances = await reranker.rerank(QUERY, DOCUMENTS)

    assert len(relevances) == len(DOCUMENTS)
    assert all(isinstance(relevance, float) and 0 <= relevance <= 1 for relevance in relevances)
    assert relevances[0] == pytest.approx(relevances[-1], abs=1e-6)
    assert len({round(relevance, 6) for relevance in relevances}) > 2
    backwards = await reranker.rerank(QUERY, DOCUMENTS[::-1])
    np.testing.assert_allclose(backwards[::-1], relevances, rtol=0, atol=1e-5)


async def test_a_relevance_does_not_depend_on_its_neighbours(reranker: Reranker) -> None:
    if isinstance(reranker, LocalReranker):
        pytest.skip("it weighs words by how few of the documents have them")
    together = await reranker.rerank(QUERY, DOCUMENTS * 2)

    alone = [relevance for document in DOCUMENTS for relevance in await reranker.rerank(QUERY, [document])]

    np.testing.assert_allclose(together, alone * 2, rtol=0, atol=1e-5)


async def test_concurrent_calls_get_their_own_relevances(reranker: Reranker) -> None:
    queries = [QUERY, "rates in March", "chain"]
    expected = [await reranker.rerank(query, DOCUMENTS[:5]) for query in queries]

    answers = await asyncio.gather(*(reranker.rerank(query, DOCUMENTS[:5]) for query in queries * 3))

    np.testing.assert_allclose(answers, expected * 3, rtol=0, atol=1e-5)


async def test_no_documents_no_relevances(reranker: Reranker) -> None:
    assert list(await reranker.rerank(QUERY, [])) == []


@pytest.mark.parametrize("query", ["", " ", "\ud83d", "word " * 5000, "東京タワー"])
async def test_any_query_is_read(reranker: Reranker, query: str) -> None:
    relevances = await reranker.rerank(query, ["a document", "word " * 5000])

    assert all(0 <= relevance <= 1 for relevance in relevances)


async def test_a_cancelled_call_harms_nobody(reranker: Reranker) -> None:
    cancelled = asyncio.create_task(reranker.rerank(QUERY, DOCUMENTS * 2))  # type: ignore[arg-type]
    await asyncio.sleep(0.01)
    cancelled.cancel()

    assert len(await reranker.rerank(QUERY, DOCUMENTS[:1])) == 1
    await asyncio.wait([cancelled])  # cancelled, or quicker than the cancellation


async def test_names_what_it_is(reranker: Reranker) -> None:
    await reranker.rerank(QUERY, ["x"])

    assert reranker.model
