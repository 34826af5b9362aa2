"""A stand-in for Ollama on a loopback port: its documented `/api/tags`, `/api/show` and `/api/pull`, line by line.

It is no Ollama: no package brings a real one. What it sends is what Ollama's own documents and its Python client say,
with layers that are kept when a pull breaks off, as Ollama keeps them.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_server import QuietServer

STEP = 1000
"""Bytes of a layer between two lines of progress."""


def digest_of(text: str) -> str:
    """As Ollama names content."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@dataclass
class Ollama:
    """`library`: what can be pulled, name to the sizes of its layers; `held`: what it has, name to digest."""

    library: dict[str, list[int]]
    held: dict[str, str] = field(default_factory=dict[str, str])
    layers: dict[str, int] = field(default_factory=dict[str, int])
    """Bytes it has of each layer."""
    break_after: list[int] = field(default_factory=list[int])
    """For so many next pulls: the lines of progress after which each breaks off."""
    gate: threading.Event | None = None
    """Where set: a pull waits for it after its first line."""
    cannot_show: bool = False
    asked: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    brought: int = 0
    """Bytes pulled so far."""
    url: str = ""

    def pulls(self) -> int:
        """How often a pull was asked for."""
        return sum(path == "/api/pull" for path, _ in self.asked)


def _handler(ollama: Ollama) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ollama.asked.append((self.path, None))
            if self.path != "/api/tags":
                return self.reply(404, {"error": "not found"})
            entries = [
                {
                    "name": name,
                    "model": name,
                    "modified_at": "2026-01-31T12:00:00.000000000Z",
                    "size": sum(ollama.library.get(name, [1])),
                    "digest": digest.removeprefix("sha256:"),
                    "details": details(),
                }
                for name, digest in ollama.held.items()
            ]
            return self.reply(200, {"models": entries})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            ollama.asked.append((self.path, body))
            name = whole(body["model"])
            if self.path == "/api/pull":
                return self.pull(name)
            if self.path == "/api/show" and name in ollama.held and not ollama.cannot_show:
                shown = {"modelfile": "", "parameters": "", "template": "", "details": details(), "model_info": {}}
                return self.reply(200, {**shown, "capabilities": ["completion"]})
            return self.reply(404, {"error": f"model '{body['model']}' not found"})

        def pull(self, name: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            limit = ollama.break_after.pop(0) if ollama.break_after else None
            self.line({"status": "pulling manifest"})
            if ollama.gate is not None:
                ollama.gate.wait(60)
            if name not in ollama.library:
                self.line({"error": "pull model manifest: file does not exist"})
                return self.end()
            lines = 0
            for number, total in enumerate(ollama.library[name]):
                digest = digest_of(f"{name} {number} {total}")
                status = f"pulling {digest[7:19]}"
                self.line(
                    {"status": status, "digest": digest, "total": total, "completed": ollama.layers.get(digest, 0)}
                )
                while ollama.layers.get(digest, 0) < total:
                    if limit is not None and lines >= limit:
                        self.close_connection = True
                        return self.connection.close()
                    step = min(STEP, total - ollama.layers.get(digest, 0))
                    ollama.layers[digest] = ollama.layers.get(digest, 0) + step
                    ollama.brought += step
                    here = ollama.layers[digest]
                    self.line({"status": status, "digest": digest, "total": total, "completed": here})
                    lines += 1
            for status in ("verifying sha256 digest", "writing manifest", "success"):
                self.line({"status": status})
            ollama.held[name] = digest_of(f"{name} {ollama.library[name]}")
            return self.end()

        def line(self, event: Mapping[str, Any]) -> None:
            content = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()

        def end(self) -> None:
            self.wfile.write(b"0\r\n\r\n")

        def reply(self, status: int, document: Any) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    return Handler


def details() -> dict[str, Any]:
    """What a model is, as Ollama tells it."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "8.0B",
        "quantization_level": "Q4_0",
    }


def whole(name: str) -> str:
    """A name with its tag."""
    return name if ":" in name else f"{name}:latest"


@contextlib.contextmanager
def ollama_server(library: Mapping[str, list[int]]) -> Iterator[Ollama]:
    """A running one."""
    ollama = Ollama({whole(name): sizes for name, sizes in library.items()})
    server = QuietServer(("127.0.0.1", 0), _handler(ollama))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    ollama.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield ollama
    finally:
        if ollama.gate is not None:
            ollama.gate.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
