"""Relevances from a reranking server over HTTP: `ServerReranker`, for VLLM_RERANK_URL.

Two ways of speaking, told apart by the address:

- `…/score`: vLLM's, `{"model", "text_1", "text_2": [...]}` -> `{"data": [{"index", "score"}]}`;
- `…/rerank`: Cohere's and Jina's, `{"model", "query", "documents"}` -> `{"results": [{"index", "relevance_score"}]}`.
  An address without either gets `/v1/rerank`.

Servers send the documents back, so what would make too large an answer is asked in parts.
"""

import asyncio
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import httpx2
import orjson

from app.domain.errors import ModelUnavailable
from app.request import remaining_s

DEADLINE_S = 10.0
"""For a call outside any request's budget."""

MAX_ANSWER_BYTES = 4_000_000
"""What is longer is not read to its end."""

REQUEST_BYTES = 1_000_000
"""Most bytes of documents in one request. With them quoted, and every character of another script escaped, the
answer stays within MAX_ANSWER_BYTES."""

_TOLERANCE = 1e-3
_VERSIONED = re.compile(r"/v\d+$")
_ASKED_PATH = re.compile(r"(/v\d+)?/(rerank|score)$")


class ServerReranker:
    """The Reranker port on a server. Its scores are taken as they are while all lie in 0..1; once one does not, the
    server speaks logits, and every score from then on goes through the logistic function.

    Every failure is a ModelUnavailable whose `cause` is one of `unreachable`, `timeout`, `refused` (4xx), `failed`
    (5xx), `busy` (429), `wrong_shape` and `too_large`.
    """

    def __init__(self, url: str, *, api_key: str | None = None, client: httpx2.AsyncClient | None = None) -> None:
        """`url`: the server, with or without the path to ask; `api_key` goes into the Authorization header; `client`
        stays open after `aclose`. Nothing is asked before the first call.
        """
        parts = urlsplit(url)
        path = _with_path(parts.path.rstrip("/"))
        self._is_score = path.endswith("/score")
        self._url = urlunsplit(parts._replace(path=path))
        self._models_url = urlunsplit(parts._replace(path=_ASKED_PATH.sub("", path) + "/v1/models"))
        self._address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._client = client or httpx2.AsyncClient()
        self._owns_client = client is None
        self._listed: str | None = None
        self._has_listed = False
        self._listing = asyncio.Lock()
        self._speaks_logits = False

    @property
    def model(self) -> str:
        """The model's name, as the server lists it; the server's address where it lists none or was not asked yet."""
        return self._listed or self._address

    async def rerank(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        """One relevance in 0..1 per document, in order. Raises ModelUnavailable.

        Takes as long as the request's budget allows, DEADLINE_S where there is none.
        """
        if not documents:
            return []
        wait_s = remaining_s(otherwise=DEADLINE_S)
        scores: list[float] = []
        try:
            async with asyncio.timeout(wait_s):
                await self._learn_model()
                for part in _parts([_encodable(document) for document in documents]):
                    answer = await self._call("POST", self._url, self._question(_encodable(query), part))
                    scores += self._scores_in(answer, len(part))
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise self._unavailable(f"did not answer within {wait_s:.3g} s", "timeout") from error
        return self._relevances(scores)

    async def aclose(self) -> None:
        """Close the connections, unless the client was handed in."""
        if self._owns_client:
            await self._client.aclose()

    async def _learn_model(self) -> None:
        """Ask, once, which model the server lists first. A server that lists none is asked without a name."""
        async with self._listing:
            if self._has_listed:
                return
            try:
                listing = await self._call("GET", self._models_url, None)
            except ModelUnavailable as error:
                if error.cause != "refused":
                    raise
                listing = {}
            match listing.get("data"):
                case [{"id": str(name)}, *_]:
                    self._listed = name
                case _:
                    pass
            self._has_listed = True

    def _question(self, query: str, documents: Sequence[str]) -> dict[str, Any]:
        """What to send; a pair too long for the model is to be cut, which vLLM would refuse otherwise."""
        named = {"model": self._listed} if self._listed else {}
        if self._is_score:
            return {**named, "text_1": query, "text_2": documents, "truncate_prompt_tokens": -1}
        return {**named, "query": query, "documents": documents, "truncate_prompt_tokens": -1}

    async def _call(self, method: str, url: str, question: dict[str, Any] | None) -> dict[str, Any]:
        """The server's answer, a JSON object."""
        content = None if question is None else orjson.dumps(question)
        body = bytearray()
        try:
            async with self._client.stream(
                method, url, content=content, headers=self._headers, timeout=None
            ) as response:
                self._check_status(response)
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise self._unavailable(f"answered with more than {MAX_ANSWER_BYTES:,} bytes", "too_large")
        except httpx2.TimeoutException:
            raise
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unavailable(f"cannot be reached ({type(error).__name__})", "unreachable") from error
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise self._unavailable("did not answer with JSON", "wrong_shape") from error
        if not isinstance(answer, dict):
            raise self._unavailable("did not answer with a JSON object", "wrong_shape")
        return cast("dict[str, Any]", answer)

    def _check_status(self, response: httpx2.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        if status == 404:  # also what is said to the name of a model that is served no more
            self._has_listed, self._listed, self._speaks_logits = False, None, False
        cause = "busy" if status == 429 else "failed" if status >= 500 else "refused"
        raise self._unavailable(f"answered with status {status}", cause)

    def _scores_in(self, answer: dict[str, Any], count: int) -> list[float]:
        """The scores, put in order by their index. Raises ModelUnavailable unless each document has exactly one."""
        rows, key = (answer.get("data"), "score") if self._is_score else (answer.get("results"), "relevance_score")
        found: dict[int, float] = {}
        for row in cast("list[object]", rows) if isinstance(rows, list) else []:
            place, score = _place_and_score(row, key)
            if place is None or not 0 <= place < count or place in found or score is None:
                raise self._unavailable("did not answer with one score for each document", "wrong_shape")
            found[place] = score
        if len(found) != count:
            raise self._unavailable(f"answered with {len(found)} scores for {count} documents", "wrong_shape")
        return [found[place] for place in range(count)]

    def _relevances(self, scores: Sequence[float]) -> list[float]:
        if any(not -_TOLERANCE <= score <= 1 + _TOLERANCE for score in scores):
            self._speaks_logits = True
        if self._speaks_logits:
            return [0.5 * (1.0 + math.tanh(score / 2.0)) for score in scores]
        return [min(1.0, max(0.0, score)) for score in scores]

    def _unavailable(self, what: str, cause: str) -> ModelUnavailable:
        return ModelUnavailable(f"The reranking server at {self._address} {what}.", cause)


def _place_and_score(row: object, key: str) -> tuple[int | None, float | None]:
    """A row's index and its finite score; None for what is not one."""
    if not isinstance(row, dict):
        return None, None
    fields = cast("dict[str, object]", row)
    place, score = fields.get("index"), fields.get(key)
    if isinstance(place, bool) or not isinstance(place, int):
        return None, None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return place, None
    return place, float(score)


def _parts(documents: Sequence[str]) -> Iterator[list[str]]:
    """The documents in order, in parts of at most REQUEST_BYTES, or of one document that is longer."""
    part: list[str] = []
    size = 0
    for document in documents:
        bytes_more = len(document.encode())
        if part and size + bytes_more > REQUEST_BYTES:
            yield part
            part, size = [], 0
        part.append(document)
        size += bytes_more
    if part:
        yield part


def _encodable(text: str) -> str:
    # JSON can carry half a surrogate pair, which no UTF-8 text may.
    return text.encode("utf-8", "replace").decode("utf-8")


def _with_path(path: str) -> str:
    """The path to ask, for the path of an address."""
    if path.endswith(("/rerank", "/score")):
        return path
    return path + ("/rerank" if _VERSIONED.search(path) else "/v1/rerank")
