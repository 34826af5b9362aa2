"""What `HttpEmbedder` asks, and which answers it believes."""

import asyncio
import json
from collections.abc import Callable

import httpx2
import numpy as np
import pytest

from app.clients.embeddings.http import HttpEmbedder
from app.domain.errors import ModelUnavailable, OtherSpace, Overloaded

Answer = Callable[[httpx2.Request], httpx2.Response]


def embedder_on(answer: Answer, url: str = "http://host:1", **options: object) -> HttpEmbedder:
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    return HttpEmbedder(url, client=client, **options)  # type: ignore[arg-type]


def vectors_of(request: httpx2.Request, dimension: int = 3) -> list[list[float]]:
    return [[float(len(text) + 1)] * dimension for text in json.loads(request.content)["inputs"]]


def good(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"embeddings": vectors_of(request), "model": "m"})


def instead(second: Answer) -> Answer:
    """Answers well to the first request, by `second` after it."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return good(request) if len(asked) == 1 else second(request)

    return answer


def says(status: int = 200, headers: dict[str, str] | None = None, **body: object) -> Answer:
    return lambda _: httpx2.Response(status, json=body, headers=headers)


def breaks(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused", request=request)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("http://host:1", "/embed"),
        ("http://host:1/", "/embed"),
        ("http://host:1/api/embed", "/api/embed"),
        ("http://host:1/v1/embeddings", "/v1/embeddings"),
    ],
)
async def test_the_address_says_how_to_ask(endpoint: str, path: str) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(404)
        asked.append((request.url.path, json.loads(request.content)))
        data = [{"index": 0, "embedding": [1.0, 0.0]}]
        return httpx2.Response(200, json={"data": data, "embeddings": [[1.0, 0.0]]})

    await embedder_on(answer, endpoint).embed(["x"])

    is_openai = path.endswith("/embeddings")
    expected = {"input": ["x"], "encoding_format": "float"} if is_openai else {"inputs": ["x"], "normalise": True}
    assert asked[-1] == (path, expected)


@pytest.mark.parametrize(
    "second",
    [
        breaks,
        says(500, error="x"),
        says(301, headers={"location": "/elsewhere"}),
        lambda _: httpx2.Response(200, text="<html>"),
        lambda _: httpx2.Response(200, json=[1, 2]),
        says(embeddings=None),
        says(embeddings=[]),
        says(embeddings=[[1.0, 2.0, 3.0]] * 2),
        says(embeddings=[[1.0, 2.0], [1.0]]),
        says(embeddings=[["a", "b", "c"]]),
        says(embeddings=[[None, 1.0, 2.0]]),
        says(embeddings=[[1e300, 1.0, 2.0]]),
        says(embeddings=[[0.0, 0.0, 0.0]]),
        says(embeddings=[[1.0, 2.0]], model="m"),
        says(embeddings=[[1.0, 2.0, 3.0]], model="another"),
    ],
)
async def test_what_is_wrong_is_refused(second: Answer) -> None:
    embedder = embedder_on(instead(second))

    with pytest.raises(ModelUnavailable, match="http://host:1"):
        await embedder.embed(["x"])


async def test_vectors_become_unit_vectors() -> None:
    vectors = await embedder_on(good).embed(["x", "yy"])

    np.testing.assert_allclose(vectors, np.full((2, 3), 3**-0.5), rtol=1e-6)


async def test_the_first_answer_fixes_the_space() -> None:
    embedder = embedder_on(good)
    with pytest.raises(ModelUnavailable, match="not answered yet"):
        _ = embedder.space

    await embedder.embed([])

    assert embedder.space.id == "m@http:3:mean:l2"


@pytest.mark.parametrize(
    ("revision", "named"), [("2024-05", "2024-05"), ("sha256:ab @1", "sha256-ab-1"), ("", "http"), (7, "http")]
)
async def test_a_revision_that_is_told_is_the_spaces(revision: object, named: str) -> None:
    embedder = embedder_on(says(embeddings=[[1.0, 0.0]], model="m", revision=revision))

    assert (await embedder.connect()).id == f"m@{named}:2:mean:l2"


async def test_another_revision_is_another_space() -> None:
    embedder = embedder_on(instead(says(embeddings=[[1.0, 1.0, 1.0]], model="m", revision="2")))

    with pytest.raises(OtherSpace, match="from the space m@http:3:mean:l2 to m@2:3:mean:l2"):
        await embedder.embed(["x"])


async def test_wanted_dimensions_are_insisted_on() -> None:
    with pytest.raises(ModelUnavailable, match="3 dimensions instead of 384"):
        await embedder_on(good, dims=384).embed(["x"])


async def test_a_nameless_model_is_named_by_its_address_without_secrets() -> None:
    answer = says(embeddings=[[1.0, 0.0]])
    embedder = embedder_on(answer, "http://user:secret@host:1/a?key=secret")

    assert (await embedder.connect()).model == "http://host:1/a"


async def test_a_busy_server_is_busy_not_broken() -> None:
    embedder = embedder_on(instead(says(429, headers={"retry-after": "7"})))

    with pytest.raises(Overloaded) as caught:
        await embedder.embed(["x"])
    assert caught.value.retry_after_s == 7


async def test_a_late_answer_is_none() -> None:
    async def answer(_: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(10)
        return httpx2.Response(200)

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))

    with pytest.raises(ModelUnavailable, match=r"within 0\.02 s"):
        await HttpEmbedder("http://host:1", client=client, deadline_s=0.02).embed(["x"])


async def test_many_texts_go_in_several_requests_in_order() -> None:
    sizes: list[int] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        texts = json.loads(request.content)["inputs"]
        sizes.append(len(texts))
        return httpx2.Response(200, json={"embeddings": [[1.0, float(len(text))] for text in texts]})

    vectors = await embedder_on(answer).embed(["x" * n for n in range(150)])

    assert sizes == [1, 64, 64, 22]
    np.testing.assert_allclose(vectors[:, 1] / vectors[:, 0], np.arange(150), rtol=1e-5)
