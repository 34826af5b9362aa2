"""Vectors from an embedding server over HTTP: `HttpEmbedder`, for EMBED_ENDPOINT.

Two ways of speaking, told apart by the address:

- `…/embeddings`: OpenAI's, `{"model", "input", "encoding_format": "float"}` -> `{"data": [{"index", "embedding"}]}`;
- any other: `POST …/embed` with `{"inputs", "normalise"}` -> `{"embeddings", "model", …}`.

Either answer may name its model's `revision`.

What comes back is checked before anyone stores it: a vector of the wrong model or length would poison a search
for good, a failed call only falls back.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit, urlunsplit

import httpx2
import numpy as np
import orjson

from app.domain.embeddings import EmbeddingSpace, Vectors, address_of
from app.domain.errors import ModelUnavailable, OtherSpace, Overloaded
from app.ports import Tokenizer

DEADLINE_S = 10.0
TEXTS_PER_REQUEST = 64

_REVISION = "http"
"""Of a model whose server names none."""

_LONGEST_REVISION = 64
_UNIT_TOLERANCE = 1e-3
_BYTES_PER_TOKEN = 4


class _Named(NamedTuple):
    """What an answer says of its model."""

    model: str | None
    revision: str | None


class HttpEmbedder:
    """The Embedder port on a server. Vectors are float32 and of unit length, whatever the server normalises.

    The space has the name of the model that the server reports, or else the server's address, and its revision where
    the server names one; an answer under another name, or of another length, is refused. It is known after the first
    answer.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        dims: int | None = None,
        model: str | None = None,
        client: httpx2.AsyncClient | None = None,
        tokenizer: Tokenizer | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """`dims`: the length vectors must have (None: that of the first answer); `model`: the name to ask for
        (None: the first that an OpenAI-like server lists); `client` stays open after `aclose`; `tokenizer` counts
        tokens (None: a quarter of the bytes); `deadline_s`: for each request of up to 64 texts.
        """
        self._address = address_of(endpoint)
        self._is_openai = urlsplit(endpoint).path.rstrip("/").endswith("/embeddings")
        self._url = endpoint if self._is_openai else _with_embed_path(endpoint)
        self._dims = dims
        self._model = model
        self._space: EmbeddingSpace | None = None
        self._client = client or httpx2.AsyncClient()
        self._owns_client = client is None
        self._tokenizer = tokenizer
        self._deadline_s = deadline_s
        self._first_use = asyncio.Lock()

    @property
    def space(self) -> EmbeddingSpace:
        """The space of the server's vectors. Raises ModelUnavailable until the server has answered once."""
        if self._space is None:
            raise ModelUnavailable(f"The embedding server at {self._address} has not answered yet.")
        return self._space

    @property
    def backend(self) -> str:
        """`http`."""
        return "http"

    async def connect(self) -> EmbeddingSpace:
        """The space, asked of the server with one short text the first time. Raises as `embed`."""
        async with self._first_use:
            if self._space is None:
                if self._is_openai and self._model is None:
                    self._model = await self._listed_model()
                await self._request(["probe"])
            return self.space

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of shape (len(texts), dimension), in order.

        Raises ModelUnavailable when the server is late, fails or answers nonsense, Overloaded when it says so.
        """
        space = self._space or await self.connect()
        chunks = [
            await self._request(texts[start : start + TEXTS_PER_REQUEST])
            for start in range(0, len(texts), TEXTS_PER_REQUEST)
        ]
        return np.concatenate(chunks) if chunks else np.empty((0, space.dimension), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens by the given tokenizer; without one an estimate, a token for every four bytes begun."""
        if self._tokenizer is not None:
            return sum(self._tokenizer.count(text) for text in texts)
        return sum(-(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN) for text in texts)

    async def aclose(self) -> None:
        """Close the connections, unless the client was handed in."""
        if self._owns_client:
            await self._client.aclose()

    async def _request(self, texts: Sequence[str]) -> Vectors:
        answer = await self._call("POST", self._url, self._question(texts))
        rows = _openai_rows(answer) if self._is_openai else answer.get("embeddings")
        vectors = self._checked(rows, len(texts))
        self._check_space(_named_in(answer), vectors.shape[1])
        return vectors

    def _question(self, texts: Sequence[str]) -> dict[str, Any]:
        # JSON can carry half a surrogate pair, which no UTF-8 text may.
        inputs = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        if not self._is_openai:
            return {"inputs": inputs, "normalise": True}
        named = {"model": self._model} if self._model else {}
        return {**named, "input": inputs, "encoding_format": "float"}

    async def _listed_model(self) -> str | None:
        """The first model the server lists beside its embeddings; None where it lists none."""
        parts = urlsplit(self._url)
        path = parts.path.rstrip("/").removesuffix("/embeddings") + "/models"
        try:
            listing = await self._call("GET", urlunsplit(parts._replace(path=path)), None)
        except ModelUnavailable:
            return None
        match listing.get("data"):
            case [{"id": str(name)}, *_]:
                return name
            case _:
                return None

    async def _call(self, method: str, url: str, question: dict[str, Any] | None) -> dict[str, Any]:
        """The server's answer as a JSON object, within the deadline."""
        try:
            async with asyncio.timeout(self._deadline_s):
                response = await self._client.request(
                    method,
                    url,
                    content=None if question is None else orjson.dumps(question),
                    headers={"content-type": "application/json"},
                    timeout=self._deadline_s,
                )
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise self._unavailable(f"did not answer within {self._deadline_s:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unavailable(f"cannot be reached ({type(error).__name__})") from error
        if response.status_code == 429:
            raise Overloaded(f"The embedding server at {self._address} is busy.", _retry_after_s(response))
        if not response.is_success:
            raise self._unavailable(f"answered with status {response.status_code}")
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise self._unavailable("did not answer with JSON") from error
        if not isinstance(answer, dict):
            raise self._unavailable("did not answer with a JSON object")
        return cast("dict[str, Any]", answer)

    def _checked(self, rows: object, count: int) -> Vectors:
        """The rows as unit vectors. Raises ModelUnavailable unless they are `count` finite rows of one length."""
        try:
            with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused below
                vectors = np.asarray(rows, np.float32)
        except (TypeError, ValueError) as error:
            raise self._unavailable("did not answer with vectors") from error
        if vectors.ndim != 2 or vectors.shape[0] != count:
            raise self._unavailable(f"answered with an array of shape {vectors.shape} for {count} texts")
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not (norms > 0).all():
            raise self._unavailable("answered with vectors that have no direction")
        if np.abs(norms - 1).max(initial=0) > _UNIT_TOLERANCE:
            vectors = (vectors / norms).astype(np.float32)
        return vectors

    def _check_space(self, named: _Named, dimension: int) -> None:
        """Learn the space from the first answer; refuse an answer from another one (OtherSpace)."""
        if self._dims is not None and dimension != self._dims:
            raise self._unavailable(f"answered with {dimension} dimensions instead of {self._dims}")
        space = EmbeddingSpace(named.model or self._model or self._address, named.revision or _REVISION, dimension)
        if self._space is None:
            self._space = space
        elif self._space != space:
            raise OtherSpace(
                f"The embedding server at {self._address} changed from the space {self._space.id} to {space.id}."
            )

    def _unavailable(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(f"The embedding server at {self._address} {what}.")


def _openai_rows(answer: dict[str, Any]) -> object:
    """The vectors in an answer of OpenAI's shape, put in order by their index."""
    rows: dict[int, object] = {}
    data = answer.get("data")
    for place, item in enumerate(cast("list[object]", data) if isinstance(data, list) else []):
        if not isinstance(item, dict):
            return None
        row = cast("dict[str, object]", item)
        index = row.get("index", place)
        if not isinstance(index, int):
            return None
        rows[index] = row.get("embedding")
    return [rows[index] for index in sorted(rows)]


def _named_in(answer: dict[str, Any]) -> _Named:
    """The model and the revision as a space's name can hold it."""
    model, revision = answer.get("model"), answer.get("revision")
    known = re.sub(r"[@:\s]+", "-", revision)[:_LONGEST_REVISION] if isinstance(revision, str) else None
    return _Named(model if isinstance(model, str) and model else None, known or None)


def _retry_after_s(response: httpx2.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 1.0


def _with_embed_path(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith("/embed") else path + "/embed"))
