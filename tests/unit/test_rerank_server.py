"""What `ServerReranker` asks, which answers it believes, and what it calls each way of failing; over a real socket."""

import asyncio
import json
import math
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from app.clients.rerank.server import MAX_ANSWER_BYTES, ServerReranker
from app.domain.errors import ModelUnavailable
from app.request import budget
from tests.rerank_server import MODEL, Behaviour, rerank_server

QUERY = "red apple"
DOCUMENTS = ["a red apple", "green", "an apple"]
RELEVANCES = [1.0, 0.0, 0.5]


@pytest.fixture(scope="module")
def shared_server() -> Iterator[tuple[str, Behaviour]]:
    with rerank_server() as (url, behaviour):
        yield url, behaviour


@pytest.fixture
def server(shared_server: tuple[str, Behaviour]) -> tuple[str, Behaviour]:
    """The server, behaving well."""
    vars(shared_server[1]).update(vars(Behaviour()))
    return shared_server


CLIENT = httpx2.AsyncClient()
"""Making one takes longer than most of these tests."""


async def ask(url: str, documents: list[str] = DOCUMENTS, **options: Any) -> list[float]:
    """One call of a reranker of its own."""
    reranker = ServerReranker(url, **{"client": CLIENT, **options})
    try:
        return list(await reranker.rerank(QUERY, documents))
    finally:
        await reranker.aclose()


async def failure(url: str, **options: Any) -> ModelUnavailable:
    """How one call fails."""
    with pytest.raises(ModelUnavailable) as caught:
        await ask(url, **options)
    return caught.value


@pytest.mark.parametrize(
    ("given", "asked", "listed"),
    [
        ("", "/v1/rerank", "/v1/models"),
        ("/", "/v1/rerank", "/v1/models"),
        ("/v1", "/v1/rerank", "/v1/models"),
        ("/v1/", "/v1/rerank", "/v1/models"),
        ("/rerank", "/rerank", "/v1/models"),
        ("/v2/rerank", "/v2/rerank", "/v1/models"),
        ("/v1/rerank/", "/v1/rerank", "/v1/models"),
        ("/score", "/score", "/v1/models"),
        ("/v1/score", "/v1/score", "/v1/models"),
        ("/models/rr", "/models/rr/v1/rerank", "/models/rr/v1/models"),
        ("/models/rr/v1/rerank?x=1", "/models/rr/v1/rerank?x=1", "/models/rr/v1/models?x=1"),
    ],
)
async def test_the_address_says_how_to_ask(server: tuple[str, Behaviour], given: str, asked: str, listed: str) -> None:
    url, behaviour = server
    behaviour.lists = []

    await ask(url + given)

    assert [(method, path) for method, path, _, _ in behaviour.asked] == [("GET", listed), ("POST", asked)]


async def test_both_ways_of_asking(server: tuple[str, Behaviour]) -> None:
    """The bodies are vLLM's, with the model it lists; what is too long is to be cut, not refused."""
    url, behaviour = server

    assert await ask(url) == await ask(url + "/score") == RELEVANCES

    cut = {"model": MODEL, "truncate_prompt_tokens": -1}
    bodies = [body for method, _, body, _ in behaviour.asked if method == "POST"]
    assert bodies == [
        cut | {"query": QUERY, "documents": DOCUMENTS},
        cut | {"text_1": QUERY, "text_2": DOCUMENTS},
    ]


async def test_the_model_is_asked_for_once(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    reranker = ServerReranker(url)
    assert reranker.model == f"{url}/v1/rerank"

    await asyncio.gather(*(reranker.rerank(QUERY, DOCUMENTS) for _ in range(8)))

    assert [method for method, *_ in behaviour.asked].count("GET") == 1
    assert reranker.model == MODEL
    await reranker.aclose()


@pytest.mark.parametrize("listing", [{"lists": []}, {"listing_status": 404}, {"listing_status": 403}], ids=str)
async def test_a_server_that_lists_no_model_is_asked_without_a_name(
    server: tuple[str, Behaviour], listing: dict[str, Any]
) -> None:
    url, behaviour = server
    vars(behaviour).update(listing)
    reranker = ServerReranker(url)

    assert await reranker.rerank(QUERY, DOCUMENTS) == RELEVANCES
    assert await reranker.rerank(QUERY, DOCUMENTS) == RELEVANCES

    assert [method for method, *_ in behaviour.asked] == ["GET", "POST", "POST"]
    assert "model" not in (behaviour.asked[-1][2] or {})
    assert reranker.model == f"{url}/v1/rerank"
    await reranker.aclose()


async def test_a_model_that_is_served_no_more_is_looked_up_again(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    reranker = ServerReranker(url)
    await reranker.rerank(QUERY, DOCUMENTS)
    behaviour.lists = ["another"]

    with pytest.raises(ModelUnavailable) as caught:
        await reranker.rerank(QUERY, DOCUMENTS)
    assert caught.value.cause == "refused"

    assert await reranker.rerank(QUERY, DOCUMENTS) == RELEVANCES
    assert reranker.model == "another"
    await reranker.aclose()


async def test_a_key_goes_with_every_request_and_into_no_message(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.status = 500
    behaviour.raw = b"{}"

    with_key = await failure(url + "?token=hush", api_key="hush-hush")
    with_password = await failure(url.replace("http://", "http://user:hush@"))

    assert [(each or "").split()[0] for *_, each in behaviour.asked] == ["Bearer", "Bearer", "Basic", "Basic"]
    for error in (with_key, with_password):
        assert "hush" not in str(error)
        assert url in str(error)


# --- ways of failing


async def test_nobody_listens_is_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

    assert (await failure(f"http://127.0.0.1:{port}")).cause == "unreachable"
    assert (await failure("http://no-such-host.invalid")).cause == "unreachable"


async def test_a_connection_cut_is_unreachable(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.hangs_up = True

    assert (await failure(url)).cause == "unreachable"


async def test_a_late_answer_is_a_timeout(server: tuple[str, Behaviour]) -> None:
    """The call ends when the request's budget does, whatever the server does after it."""
    url, behaviour = server
    behaviour.delay_s = 1.0
    started = time.monotonic()

    with budget(0.25):
        assert (await failure(url)).cause == "timeout"

    assert time.monotonic() - started < 0.6


async def test_a_budget_used_up_is_a_timeout_at_once(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server

    with budget(0.0):
        assert (await failure(url)).cause == "timeout"

    assert behaviour.asked == []


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        *((status, "refused") for status in (301, 400, 401, 404, 422)),
        (429, "busy"),
        *((status, "failed") for status in (500, 501, 503)),
    ],
)
async def test_a_status_has_its_cause(server: tuple[str, Behaviour], status: int, cause: str) -> None:
    url, behaviour = server
    behaviour.status = status
    behaviour.raw = b'{"results": []}'

    error = await failure(url)

    assert error.cause == cause
    assert str(status) in str(error)


@pytest.mark.parametrize(("status", "cause"), [(429, "busy"), (500, "failed")])
async def test_a_failed_listing_is_a_failure_and_is_tried_again(
    server: tuple[str, Behaviour], status: int, cause: str
) -> None:
    url, behaviour = server
    behaviour.listing_status = status
    reranker = ServerReranker(url)
    with pytest.raises(ModelUnavailable) as caught:
        await reranker.rerank(QUERY, DOCUMENTS)
    assert caught.value.cause == cause

    behaviour.listing_status = 200

    assert await reranker.rerank(QUERY, DOCUMENTS) == RELEVANCES
    await reranker.aclose()


def rows(*pairs: tuple[object, object]) -> bytes:
    """An answer that fits both ways of asking."""
    return json.dumps(
        {
            "results": [{"index": place, "relevance_score": score} for place, score in pairs],
            "data": [{"index": place, "score": score} for place, score in pairs],
        }
    ).encode()


WRONG = {
    "no JSON": b"<html>",
    "nothing": b"",
    "cut short": b'{"results": [',
    "no UTF-8": b'{"results": "\xff"}',
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "no results": b"{}",
    "results of another kind": b'{"results": {"0": 1}, "data": "x"}',
    "rows of another kind": b'{"results": [1, 2, 3], "data": [null]}',
    "one too few": rows((0, 0.1), (1, 0.2)),
    "one too many": rows((0, 0.1), (1, 0.2), (2, 0.3), (3, 0.4)),
    "one twice": rows((0, 0.1), (1, 0.2), (1, 0.2)),
    "one twice beside all": rows((0, 0.1), (1, 0.2), (2, 0.3), (2, 0.3)),
    "an index below": rows((-1, 0.1), (0, 0.2), (1, 0.3)),
    "an index beyond": rows((1, 0.1), (2, 0.2), (3, 0.3)),
    "an index as text": rows(("0", 0.1), (1, 0.2), (2, 0.3)),
    "an index that is a half": rows((0, 0.1), (1, 0.2), (1.5, 0.3)),
    "an index that is true": rows((0, 0.1), (True, 0.2), (2, 0.3)),
    "no index": rows((None, 0.1), (1, 0.2), (2, 0.3)),
    "a score as text": rows((0, "0.1"), (1, 0.2), (2, 0.3)),
    "no score": rows((0, None), (1, 0.2), (2, 0.3)),
    "a score that is true": rows((0, True), (1, 0.2), (2, 0.3)),
    "a score that is a list": rows((0, [0.1]), (1, 0.2), (2, 0.3)),
    "NaN": rows((0, math.nan), (1, 0.2), (2, 0.3)),
    "Infinity": rows((0, 0.1), (1, math.inf), (2, 0.3)),
}


@pytest.mark.parametrize("path", ["", "/score"])
@pytest.mark.parametrize("raw", WRONG.values(), ids=WRONG)
async def test_another_shape_is_refused(server: tuple[str, Behaviour], path: str, raw: bytes) -> None:
    url, behaviour = server
    behaviour.raw = raw

    assert (await failure(url + path)).cause == "wrong_shape"


async def test_an_answer_without_end_is_not_read_to_it(server: tuple[str, Behaviour]) -> None:
    """The caller hangs up after MAX_ANSWER_BYTES; what was sent beyond lies in the buffers of the connection."""
    url, behaviour = server
    behaviour.endless = True

    assert (await failure(url)).cause == "too_large"

    assert behaviour.bytes_sent < MAX_ANSWER_BYTES + 16_000_000


# --- scores


@pytest.mark.parametrize("path", ["", "/score"])
async def test_logits_become_relevances_and_stay_so(server: tuple[str, Behaviour], path: str) -> None:
    """Once a server is seen to speak logits, a score that could be a probability is a logit, too."""
    url, behaviour = server
    behaviour.factor = 6.0
    reranker = ServerReranker(url + path)

    relevances = await reranker.rerank(QUERY, DOCUMENTS)

    assert relevances == pytest.approx([1 / (1 + math.exp(-x)) for x in (6.0, 0.0, 3.0)])
    assert await reranker.rerank(QUERY, ["green"]) == [0.5]
    await reranker.aclose()


async def test_extreme_logits_are_relevances(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.raw = rows((0, 1e300), (1, -1e300), (2, -2))

    assert await ask(url) == pytest.approx([1.0, 0.0, 0.11920292])


async def test_a_hair_beyond_is_no_logit(server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.raw = rows((0, 1.0000001), (1, -0.0000001), (2, 1))

    assert await ask(url) == [1.0, 0.0, 1.0]


async def test_large_documents_go_in_several_requests_in_order(server: tuple[str, Behaviour]) -> None:
    """Servers quote the documents, so that one request with all of them could not be answered in bounds."""
    url, behaviour = server
    documents = [f"{'red apple ' if place % 2 else ''}{'é' * 150_000}" for place in range(7)]

    assert await ask(url, documents) == [place % 2 for place in range(7)]

    sizes = [len((body or {})["documents"]) for method, _, body, _ in behaviour.asked if method == "POST"]
    assert sizes == [3, 3, 1]


async def test_a_client_handed_in_stays_open(server: tuple[str, Behaviour]) -> None:
    url, _ = server
    async with httpx2.AsyncClient() as client:
        assert await ask(url, client=client) == RELEVANCES
        assert not client.is_closed


async def test_connections_are_kept(server: tuple[str, Behaviour]) -> None:
    """Calls one after the other go over one connection."""
    url, _ = server
    reranker = ServerReranker(url)
    for _ in range(3):
        await reranker.rerank(QUERY, DOCUMENTS)

    assert len(reranker._client._transport._pool.connections) == 1  # type: ignore[attr-defined]
    await reranker.aclose()
    assert reranker._client.is_closed
