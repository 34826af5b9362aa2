"""The client without asyncio, written by `python scripts/write_python_client.py` out of `asynchronous.py`."""

import json
import random
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote
from uuid import uuid4

import httpx2

from embed_service_client import shapes
from embed_service_client.errors import UnexpectedAnswer, Unreachable, problem_of
from embed_service_client.json_values import decode, encodable
from embed_service_client.retries import Retries

T = TypeVar("T")
Page = TypeVar("Page", shapes.PageOut, shapes.RecallsOut, shapes.QuarantineOut)

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S = 5.0
IMPORT_S = 900.0
"""An import is one transaction, and embeds what comes from another embedding space."""
CHUNK_BYTES = 64 * 1024
NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
JSON_HEADERS = {"Content-Type": "application/json"}
LINES_HEADERS = {"Content-Type": "application/x-ndjson"}


class EmbedService:
    """An Embed Service. Methods are named as the operations of its document, arguments as the fields of their bodies.

    Each raises a Problem where the service refuses, Unreachable where no whole answer comes, UnexpectedAnswer where it
    is none of the document's. `timeout_s` is the longest silence of the service that is waited through.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: Retries | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        self._http = httpx2.Client(base_url=base_url, headers=headers, timeout=timeout, transport=transport)
        self._retries = retries or Retries()

    def __enter__(self) -> Self:
        """Nothing is connected before the first call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- what a user means

    def hypothesize(self, **request: Unpack[shapes.HypothesizeIn]) -> shapes.HypothesizeOut:
        """What the user may mean, as questions with confidences, and whether to ask."""
        return self._ask("POST", "/v1/hypothesize", shapes.HypothesizeOut, request)

    def answer_question(self, **request: Unpack[shapes.AnswerIn]) -> shapes.HypothesizeOut:
        """Say how a question was answered: what the input may mean by now, and whether to ask further."""
        return self._ask("POST", "/v1/answer", shapes.HypothesizeOut, request)

    def execute(self, **request: Unpack[shapes.ExecuteIn]) -> shapes.ExecuteOut:
        """The enriched prompt for a chosen hypothesis, an answer of the user's own, or the bare input."""
        return self._ask("POST", "/v1/execute", shapes.ExecuteOut, request)

    def give_feedback(self, **request: Unpack[shapes.FeedbackIn]) -> shapes.FeedbackOut:
        """Learn from a reaction."""
        return self._ask("POST", "/v1/feedback", shapes.FeedbackOut, request)

    def prefer(self, **request: Unpack[shapes.PreferenceIn]) -> shapes.Accepted:
        """Record which of two wordings a user prefers."""
        return self._ask("POST", "/v1/preferences", shapes.Accepted, request)

    def followups(self, **request: Unpack[shapes.FollowupsIn]) -> shapes.FollowupsOut:
        """Questions that move a conversation on."""
        return self._ask("POST", "/v1/followups", shapes.FollowupsOut, request, is_read=True)

    def enrich(self, **request: Unpack[shapes.EnrichIn]) -> shapes.EnrichOut:
        """What an input implies."""
        return self._ask("POST", "/v1/enrich", shapes.EnrichOut, request, is_read=True)

    # --- memories

    def add_memories(self, user_id: str, memories: Sequence[shapes.MemoryIn]) -> shapes.AddedOut:
        """Remember up to 1,000 memories in one transaction."""
        body = {"user_id": user_id, "memories": list(memories)}
        return self._ask("POST", "/v1/memories", shapes.AddedOut, body)

    def ingest_conversation(
        self,
        user_id: str,
        messages: Sequence[shapes.MessageIn],
        *,
        session: str | None = None,
        key: str | None = None,
    ) -> shapes.IngestedOut:
        """Hand in turns of a conversation, to be remembered in the background. What is handed in under one `key` is
        taken once; without one, this call makes its own, so that it can be sent again."""
        body = {"user_id": user_id, "messages": list(messages)} | ({"session": session} if session else {})
        key = key or uuid4().hex
        return self._ask("POST", "/v1/memories/ingest", shapes.IngestedOut, body, is_read=True, key=key)

    def get_job(self, job_id: str) -> shapes.JobOut:
        """How a job stands, and what it left so far."""
        return self._ask("GET", _path("/v1/jobs/{}", job_id), shapes.JobOut)

    def list_memories(
        self, user_id: str, *, mtype: shapes.MemoryType | None = None, tag: str | None = None, limit: int = 200
    ) -> Iterator[shapes.MemoryOut]:
        """The user's memories that hold now, newest first; asked for `limit` at a time, as they are needed."""
        query = {"user_id": user_id, "mtype": mtype, "tag": tag, "limit": str(limit)}
        for page in self._pages("/v1/memories", query, shapes.PageOut):
            yield from page.memories

    def search_memories(self, **request: Unpack[shapes.SearchIn]) -> shapes.SearchOut:
        """The user's memories most relevant to a query, best first."""
        return self._ask("POST", "/v1/memories/search", shapes.SearchOut, request, is_read=True)

    def list_recalls(self, user_id: str, *, limit: int = 200) -> Iterator[shapes.RecallOut]:
        """What was recalled for the user, the latest first; asked for `limit` at a time, as it is needed."""
        query = {"user_id": user_id, "limit": str(limit)}
        for page in self._pages("/v1/recalls", query, shapes.RecallsOut):
            yield from page.recalls

    def get_recall(self, recall_id: str) -> shapes.ReceiptOut:
        """The receipt of a recall: each memory with its scores, the words that tell it, its validity and its age."""
        return self._ask("GET", _path("/v1/recalls/{}", recall_id), shapes.ReceiptOut)

    def replay_recall(self, recall_id: str) -> shapes.ReplayOut:
        """Do a recall again, by what was known then and by what is known now."""
        return self._ask("POST", _path("/v1/recalls/{}/replay", recall_id), shapes.ReplayOut, is_read=True)

    def judge_recall(self, recall_id: str, helpful_ids: Sequence[str]) -> shapes.ReceiptOut:
        """Say which of the memories of a recall were helpful."""
        body = {"helpful_ids": list(helpful_ids)}
        path = _path("/v1/recalls/{}/feedback", recall_id)
        return self._ask("POST", path, shapes.ReceiptOut, body, is_read=True)

    def list_quarantine(self, user_id: str, *, limit: int = 200) -> Iterator[shapes.SetApartOut]:
        """Statements of the user that did not pass the write gate, the latest first."""
        query = {"user_id": user_id, "limit": str(limit)}
        for page in self._pages("/v1/memories/quarantine", query, shapes.QuarantineOut):
            yield from page.statements

    def release_statement(self, item_id: str) -> shapes.AddedOut:
        """Let a statement through the write gate after all: it becomes a memory."""
        return self._ask("POST", _path("/v1/memories/quarantine/{}/release", item_id), shapes.AddedOut)

    def get_memory(self, memory_id: str) -> shapes.MemoryOut:
        """One memory."""
        return self._ask("GET", _path("/v1/memories/{}", memory_id), shapes.MemoryOut)

    def get_memory_history(self, memory_id: str) -> shapes.MemoryHistoryOut:
        """What a memory said before, and what it replaced."""
        return self._ask("GET", _path("/v1/memories/{}/history", memory_id), shapes.MemoryHistoryOut)

    def change_memory(self, memory_id: str, **changes: Unpack[shapes.MemoryChangeIn]) -> shapes.MemoryOut:
        """Change fields of a memory; what it said before stays in its history."""
        return self._ask("PATCH", _path("/v1/memories/{}", memory_id), shapes.MemoryOut, changes)

    def delete_memory(self, memory_id: str) -> shapes.DeletedOut:
        """Delete a memory with its earlier versions."""
        return self._ask("DELETE", _path("/v1/memories/{}", memory_id), shapes.DeletedOut)

    def delete_memories(self, user_id: str, mtype: shapes.MemoryType | None = None) -> shapes.DeletedOut:
        """Delete a user's memories, of one type or all."""
        return self._ask("DELETE", _path("/v1/memory", user_id=user_id, mtype=mtype), shapes.DeletedOut)

    # --- everything held on a user

    def export_user(self, user_id: str) -> Iterator[bytes]:
        """Everything held on a user, line by line as it comes: a JSON object each, its line's end included."""
        rest = b""
        with self._opened("GET", _path("/v1/memory/export", user_id=user_id), is_read=True) as answer:
            for chunk in answer.iter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line + b"\n"
        if rest:
            yield rest

    def import_user(self, source: Path | Iterable[bytes]) -> shapes.ImportedOut:
        """Take in an export, a file or its bytes in pieces of any size, in one transaction. It is sent once."""
        pieces = _pieces(source) if isinstance(source, Path) else source
        timeout = httpx2.Timeout(IMPORT_S, connect=CONNECT_S)
        with self._opened(
            "POST", "/v1/memory/import", is_sent_once=True, content=pieces, headers=LINES_HEADERS, timeout=timeout
        ) as answer:
            return decode(shapes.ImportedOut, _document(answer.read()))

    def erase_user(self, user_id: str) -> shapes.ErasedOut:
        """Erase a user from every table, training file and dataset."""
        return self._ask("DELETE", _path("/v1/users/{}", user_id), shapes.ErasedOut)

    def get_consent(self, user_id: str) -> shapes.ConsentOut:
        """Whether training samples of the user are kept."""
        return self._ask("GET", _path("/v1/users/{}/consent", user_id), shapes.ConsentOut)

    def put_consent(self, user_id: str, *, training: bool) -> shapes.ConsentOut:
        """Set whether training samples of the user are kept; without consent those there are erased."""
        path = _path("/v1/users/{}/consent", user_id)
        return self._ask("PUT", path, shapes.ConsentOut, {"training": training})

    # --- personas

    def get_persona(self, user_id: str) -> shapes.PersonaOut:
        """A user's facets with their uncertainty."""
        return self._ask("GET", _path("/v1/persona/{}", user_id), shapes.PersonaOut)

    def correct_persona(self, user_id: str, **changes: Unpack[shapes.PersonaChangeIn]) -> shapes.PersonaOut:
        """Set facets outright, and pin them or let them go."""
        return self._ask("PATCH", _path("/v1/persona/{}", user_id), shapes.PersonaOut, changes)

    def delete_facet(self, user_id: str, facet: str) -> shapes.PersonaOut:
        """Delete what is known of one facet, and why."""
        return self._ask("DELETE", _path("/v1/persona/{}/facets/{}", user_id, facet), shapes.PersonaOut)

    def get_persona_history(self, user_id: str) -> shapes.PersonaHistoryOut:
        """Every move of a facet, and why, oldest first."""
        return self._ask("GET", _path("/v1/persona/{}/history", user_id), shapes.PersonaHistoryOut)

    # --- vectors and relevance

    def embed(self, **request: Unpack[shapes.EmbedIn]) -> shapes.EmbedOut:
        """Vectors of texts."""
        return self._ask("POST", "/embed", shapes.EmbedOut, request, is_read=True)

    def create_embeddings(self, **request: Unpack[shapes.EmbeddingsIn]) -> shapes.EmbeddingsOut:
        """Vectors of texts, in OpenAI's shape."""
        return self._ask("POST", "/v1/embeddings", shapes.EmbeddingsOut, request, is_read=True)

    def rerank(self, **request: Unpack[shapes.RerankIn]) -> shapes.RerankOut:
        """Documents in the order of their relevance to a query."""
        return self._ask("POST", "/v1/rerank", shapes.RerankOut, request, is_read=True)

    # --- the service itself

    def telemetry(self, since: datetime | None = None) -> shapes.TelemetryOut:
        """How the tenant's hypotheses fared since a moment."""
        moment = since.isoformat() if since else None
        return self._ask("GET", _path("/v1/telemetry", since=moment), shapes.TelemetryOut)

    def readyz(self) -> shapes.ReadyOut:
        """Each part's state."""
        with self._opened("GET", "/readyz", is_read=True, also=503) as answer:
            return decode(shapes.ReadyOut, _document(answer.read()))

    def info(self) -> shapes.InfoOut:
        """What is running."""
        return self._ask("GET", "/info", shapes.InfoOut)

    # --- how

    def _pages(self, path: str, query: Mapping[str, str | None], kind: type[Page]) -> Iterator[Page]:
        """A listing a page at a time, each asked for when it is needed."""
        cursor = None
        while True:
            page = self._ask("GET", _path(path, **query, cursor=cursor), kind)
            yield page
            if page.cursor is None:
                return
            cursor = page.cursor

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: Mapping[str, Any] | None = None,
        *,
        is_read: bool = False,
        key: str | None = None,
    ) -> T:
        """Call an operation and read its answer. One with a `key` is as good as a read: done twice, it is done once."""
        content = None if body is None else json.dumps(body, default=encodable, ensure_ascii=False).encode()
        headers = JSON_HEADERS if content is not None else {}
        headers = headers | ({"Idempotency-Key": key} if key else {})
        reads = is_read or method == "GET"
        with self._opened(method, path, is_read=reads, content=content, headers=headers) as answer:
            return decode(kind, _document(answer.read()))

    @contextmanager
    def _opened(
        self,
        method: str,
        path: str,
        *,
        is_read: bool = False,
        is_sent_once: bool = False,
        also: int | None = None,
        **parts: Any,
    ) -> Generator[httpx2.Response]:
        """An answer whose body has not been read: a success, or one of the status `also`."""
        retries = Retries(count=0) if is_sent_once else self._retries
        answer = self._answered(method, path, is_read, retries, also, parts)
        try:
            yield answer
        except httpx2.TransportError as error:
            raise _unreachable(error, answer.request) from error
        finally:
            answer.close()

    def _answered(
        self, method: str, path: str, is_read: bool, retries: Retries, also: int | None, parts: dict[str, Any]
    ) -> httpx2.Response:
        """The same; calls that may be made again are, while they fail."""
        parts = {**parts, "headers": {**parts.get("headers", {}), "X-Request-ID": uuid4().hex}}
        tries = 0
        while True:
            tries += 1
            chance = random.random()  # noqa: S311 - spreads waits
            request = self._http.build_request(method, path, **parts)
            try:
                answer = self._http.send(request, stream=True)
            except httpx2.TransportError as error:
                was_connected = not isinstance(error, NOT_CONNECTED)
                wait_s = retries.after_failure(was_connected=was_connected, tries=tries, is_read=is_read, chance=chance)
                if wait_s is None:
                    raise _unreachable(error, request) from error
            else:
                if answer.is_success or answer.status_code == also:
                    return answer
                after_s = _retry_after_s(answer)
                wait_s = retries.after_answer(answer.status_code, after_s, tries=tries, is_read=is_read, chance=chance)
                if wait_s is None:
                    raise _problem(answer, after_s)
                answer.close()
            time.sleep(wait_s)


def _problem(answer: httpx2.Response, retry_after_s: float | None) -> Exception:
    try:
        body: object = json.loads(answer.read())
    except (ValueError, httpx2.TransportError):
        body = None
    finally:
        answer.close()
    request_id = answer.headers.get("X-Request-ID", answer.request.headers["X-Request-ID"])
    return problem_of(answer.status_code, answer.reason_phrase, body, request_id, retry_after_s)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(CHUNK_BYTES):
            yield piece


def _path(pattern: str, *parts: str, **query: str | None) -> str:
    """A path whose parts and query may be any text. A part of dots alone would be taken for a step upwards."""
    quoted = [quote(part, safe="").replace(".", "%2E") for part in parts]
    given = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value is not None)
    return pattern.format(*quoted) + (f"?{given}" if given else "")


def _document(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        raise UnexpectedAnswer("the answer is not JSON") from None


def _retry_after_s(answer: httpx2.Response) -> float | None:
    """Seconds; the service never answers with a date."""
    said = answer.headers.get("Retry-After", "")
    return float(said) if said.isdigit() else None


def _unreachable(error: Exception, request: httpx2.Request) -> Unreachable:
    why = str(error) or type(error).__name__
    where = f"{request.method} {request.url.scheme}://{request.url.netloc.decode()}"
    return Unreachable(f"{where}: {why}", request.headers["X-Request-ID"])
