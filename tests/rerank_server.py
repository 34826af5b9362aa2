"""A real, tiny reranking server on a loopback port, speaking both ways that `ServerReranker` knows, and badly on
request."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_server import QuietServer

MODEL = "tiny-reranker"


def score_of(query: str, document: str) -> float:
    """The share of the query's words that the document has, 0..1."""
    words = set(query.lower().split())
    return len(words & set(document.lower().split())) / len(words) if words else 0.0


@dataclass
class Behaviour:
    """What the server does, and what it was asked. Tests change it while it runs."""

    status: int = 200
    raw: bytes | None = None
    """Sent instead of an answer."""
    endless: bool = False
    """Goes on sending until the caller hangs up."""
    delay_s: float = 0.0
    hangs_up: bool = False
    lists: list[str] = field(default_factory=lambda: [MODEL])
    listing_status: int = 200
    factor: float = 1.0
    """Scores are multiplied by it: above 1, they are no probabilities any more."""
    asked: list[tuple[str, str, dict[str, Any] | None, str | None]] = field(default_factory=list)
    """(method, path, body, Authorization) of every request."""
    bytes_sent: int = 0


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        """`/v1/models`, as OpenAI lists them."""
        does = self.server.behaviour
        does.asked.append(("GET", self.path, None, self.headers["authorization"]))
        self._answer(does.listing_status, {"data": [{"id": name} for name in does.lists]})

    def do_POST(self) -> None:
        """`/rerank` and `/score`, under any path."""
        does = self.server.behaviour
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        does.asked.append(("POST", self.path, question, self.headers["authorization"]))
        time.sleep(does.delay_s)
        if does.hangs_up:
            self.close_connection = True
        elif does.endless:
            self._send_forever()
        elif does.raw is not None:
            self._send(does.status, does.raw)
        elif question.get("model", MODEL) not in (does.lists or [MODEL]):
            self._answer(404, {"error": "no such model"})
        elif self.path.endswith("/score"):
            scores = self._scores(question["text_1"], question["text_2"])
            self._answer(does.status, {"data": [{"index": place, "score": score} for place, score in scores]})
        else:
            documents = question["documents"]
            self._answer(
                does.status,
                {
                    "results": [
                        {"index": place, "relevance_score": score, "document": {"text": documents[place]}}
                        for place, score in self._scores(question["query"], documents)
                    ]
                },
            )

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _scores(self, query: str, documents: list[str]) -> list[tuple[int, float]]:
        """Best first, as such servers answer."""
        scores = [score_of(query, document) * self.server.behaviour.factor for document in documents]
        return sorted(enumerate(scores), key=lambda pair: -pair[1])

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_forever(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            while self.server.behaviour.bytes_sent < 200_000_000:
                self.server.behaviour.bytes_sent += self.wfile.write(b" " * 65536)


class _Server(QuietServer):
    behaviour: Behaviour


@contextlib.contextmanager
def rerank_server() -> Iterator[tuple[str, Behaviour]]:
    """The address of a running server, e.g. `http://127.0.0.1:40123`, and how it behaves."""
    server = _Server(("127.0.0.1", 0), _Requests)
    server.behaviour = Behaviour()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.behaviour
    finally:
        server.shutdown()
        server.server_close()
