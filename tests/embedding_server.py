"""A real, tiny embedding server on a loopback port, speaking both ways that `HttpEmbedder` knows."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.fakes import FakeEmbedder
from tests.http_server import QuietServer

MODEL = "tiny-model"


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    embedder = FakeEmbedder(MODEL)

    def do_GET(self) -> None:
        """`/v1/models`, as OpenAI lists them."""
        self._answer(200 if self.path == "/v1/models" else 404, {"data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        """`/embed` and `/v1/embeddings`."""
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/embed":
            self._answer(200, {"embeddings": self._rows(question["inputs"]), "model": MODEL})
        elif self.path == "/v1/embeddings" and question["model"] == MODEL:
            rows = self._rows(question["input"])
            data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
            self._answer(200, {"data": data[::-1], "model": MODEL})
        else:
            self._answer(404, {"error": "no such path or model"})

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _rows(self, texts: list[str]) -> list[list[float]]:
        return (self.embedder.vectors(texts) * 3).tolist()  # not of unit length: the client must see to it

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(QuietServer):
    """Closed, it answers nobody: connections that clients keep alive end too."""

    def __init__(self) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Requests)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def embedding_server() -> Iterator[str]:
    """The address of a running server, e.g. `http://127.0.0.1:40123`."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
