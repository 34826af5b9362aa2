"""A steady stream of mixed reads and writes, and what became of each request."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import httpx

PER_S = 20.0
SHARES: Mapping["Kind", int] = {"search": 12, "add": 5, "change": 1, "hypothesize": 2}
"""Of every twenty requests, in an order that chance gives."""

TRIED_S = 30.0
"""How long a request that is answered with 503, or not at all, is made again."""

LIMIT = 30
"""Results of a search: three times as many as are compared with brute force."""

Kind = Literal["search", "add", "change", "hypothesize"]
ONLY_SIMILARITY = {"similarity": 1, "recency": 0, "confidence": 0}


@dataclass
class Request:
    """One request: when it was due, how long it took with all its tries, and the first and the last status (0: no
    answer)."""

    kind: Kind
    user_id: str
    said: str
    due_at: float
    seconds: float = 0.0
    tries: int = 0
    first_status: int = 0
    status: int = 0
    answer: Any = None

    @property
    def ended_at(self) -> float:
        """When it was answered."""
        return self.due_at + self.seconds


@dataclass
class Stream:
    """Who asks and writes what. Users who change what they said are not searched: then it is known at any moment what
    a search could find."""

    base_url: str
    searchers: Sequence[str]
    writers: Sequence[str]
    questions: Sequence[str]
    sentences: Sequence[str]
    random: Random
    requests: list[Request] = field(default_factory=list[Request])
    _next: int = 0
    _changeable: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @asynccontextmanager
    async def flowing(self) -> AsyncGenerator[None]:
        """The stream, until the block ends; requests under way are awaited."""
        async with httpx.AsyncClient(base_url=self.base_url, timeout=TRIED_S) as client:
            under_way: set[asyncio.Task[None]] = set()
            is_over = asyncio.Event()

            async def flow() -> None:
                due_at = time.time()
                while not is_over.is_set():
                    task = asyncio.create_task(self._make(client, self._new_request(due_at)))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    due_at += 1 / PER_S
                    await asyncio.sleep(max(0.0, due_at - time.time()))

            flowing = asyncio.create_task(flow())
            try:
                yield
            finally:
                is_over.set()
                await flowing
                await asyncio.gather(*under_way)

    def _new_request(self, due_at: float) -> Request:
        kind = self.random.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "change" and not self._changeable:
            kind = "add"
        if kind == "search":
            return Request(kind, self.random.choice(self.searchers), self.random.choice(self.questions), due_at)
        said = self.sentences[self._next % len(self.sentences)]
        self._next += 1
        if kind == "hypothesize":
            return Request(kind, self.random.choice(self.writers), f"write about number {self._next}", due_at)
        users = self.writers if kind == "change" or self.random.random() < 0.5 else self.searchers
        return Request(kind, self.random.choice(users), said, due_at)

    async def _make(self, client: httpx.AsyncClient, request: Request) -> None:
        self.requests.append(request)
        method, path, body = self._body(request)
        while True:
            request.tries += 1
            try:
                answer = await client.request(method, path, json=body)
                status = answer.status_code
            except httpx.TransportError:
                answer, status = None, 0
            request.seconds = time.time() - request.due_at
            request.status = status
            if request.tries == 1:
                request.first_status = status
            if answer is not None and status == 200:
                request.answer = answer.json()
                self._remember(request)
                return
            if status not in {0, 429, 503} or request.seconds > TRIED_S:
                return
            await asyncio.sleep(0.25)

    def _body(self, request: Request) -> tuple[str, str, dict[str, Any]]:
        match request.kind:
            case "search":
                asked = {"user_id": request.user_id, "query": request.said, "limit": LIMIT, "weights": ONLY_SIMILARITY}
                return "POST", "/v1/memories/search", asked
            case "add":
                return "POST", "/v1/memories", {"user_id": request.user_id, "type": "ARTIFACT", "content": request.said}
            case "hypothesize":
                return "POST", "/v1/hypothesize", {"user_id": request.user_id, "input_text": request.said}
            case "change":
                request.user_id, memory_id = self._changeable.pop()
                return "PATCH", f"/v1/memories/{memory_id}", {"content": request.said}

    def _remember(self, request: Request) -> None:
        if request.kind == "add" and request.user_id in self.writers and not request.answer["deduplicated"]:
            self._changeable.append((request.user_id, request.answer["ids"][0]))
