"""A hub on loopback ports that serves the Hugging Face hub's documented paths, and breaks off where a test says so.

Large files are redirected to a second port, as the real hub does to its storage: another origin, which must not see the
token. Both answer Range, with the etags and headers that the hub documents.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.http_server import QuietServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".gguf")
PIECE = 16 * 1024


def sha256(content: bytes) -> str:
    """In hex."""
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Asked:
    """A request as it came in; `range` is where it wants to begin."""

    path: str
    range: int
    token: str | None
    is_storage: bool


@dataclass
class Hub:
    """`repositories`: name to path to content. What is set while it runs holds for the next answers."""

    repositories: dict[str, dict[str, bytes]]
    token: str | None = None
    """Wanted of callers, where set."""
    break_after: list[int] = field(default_factory=list[int])
    """For so many next answers with a large file: the bytes after which each breaks off."""
    gate: threading.Event | None = None
    """Where set: an answer with a large file waits for it, `gate_after` bytes on."""
    gate_after: int = 0
    ignores_range: bool = False
    corrupts: bool = False
    stumbles: int = 0
    """So many next answers are 503."""
    linked_etag: str | None = None
    """In the place of the right one."""
    asked: list[Asked] = field(default_factory=list[Asked])
    sent: int = 0
    """Bytes of large files."""
    url: str = ""
    storage_url: str = ""
    began: threading.Event = field(default_factory=threading.Event)
    """Set when an answer waits at the gate."""

    def large_requests(self) -> list[Asked]:
        """Those for the content of large files."""
        return [each for each in self.asked if each.is_storage]


def _handler(hub: Hub, is_storage: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            token = self.headers.get("Authorization")
            hub.asked.append(Asked(self.path, start, token, is_storage))
            path = unquote(urlsplit(self.path).path)
            if hub.stumbles:
                hub.stumbles -= 1
                return self.reply(503)
            if is_storage:
                contents = {sha256(each): each for files in hub.repositories.values() for each in files.values()}
                return self.send_file(contents[path.removeprefix("/lfs/")], path.removeprefix("/lfs/"), start)
            if hub.token is not None and token != f"Bearer {hub.token}":
                return self.reply(401)
            if found := re.fullmatch(r"/api/models/(.+)/(revision|tree)/(.+)", path):
                return self.send_listing(found[1], found[3], is_tree=found[2] == "tree")
            if found := re.fullmatch(r"/(.+?)/resolve/(.+?)/(.+)", path):
                return self.send_resolved(found[1], found[3], start)
            return self.reply(404)

        do_HEAD = do_GET

        def send_listing(self, name: str, revision: str, is_tree: bool) -> None:
            """A revision's files; as a tree in the words that `huggingface_hub` asks for."""
            if name not in hub.repositories or revision not in {"main", "v1", COMMIT}:
                return self.reply(404)
            siblings: list[dict[str, Any]] = []
            tree: list[dict[str, Any]] = []
            for path, content in hub.repositories[name].items():
                entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_sha1(content)}
                if path.endswith(LARGE):
                    entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
                siblings.append(entry)
                lfs = {"lfs": {**entry["lfs"], "oid": sha256(content)}} if "lfs" in entry else {}
                tree.append({"type": "file", "path": path, "size": len(content), "oid": git_sha1(content), **lfs})
            body = json.dumps(tree if is_tree else {"id": name, "sha": COMMIT, "siblings": siblings}).encode()
            self.reply(200, body, {"Content-Type": "application/json"})

        def send_resolved(self, name: str, path: str, start: int) -> None:
            if path not in hub.repositories.get(name, {}):
                return self.reply(404)
            content = hub.repositories[name][path]
            if not path.endswith(LARGE):
                return self.send_file(content, git_sha1(content), start)
            headers = {
                "Location": f"{hub.storage_url}/lfs/{sha256(content)}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hub.linked_etag or sha256(content)}"',
                "X-Linked-Size": str(len(content)),
            }
            self.reply(302, b"", headers)

        def send_file(self, content: bytes, etag: str, start: int) -> None:
            size = len(content)
            if hub.ignores_range:
                start = 0
            if start > size or (start == size and size):
                return self.reply(416, b"", {"Content-Range": f"bytes */{size}"})
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "HEAD":
                return None
            rest = content[start:]
            if hub.corrupts and is_storage:
                rest = rest[:-1] + bytes([rest[-1] ^ 1])
            limit = hub.break_after.pop(0) if is_storage and hub.break_after else None
            self.send_pieces(rest, limit)
            return None

        def send_pieces(self, rest: bytes, limit: int | None) -> None:
            sent = 0
            for at in range(0, len(rest), PIECE):
                piece = rest[at : at + PIECE] if limit is None else rest[at : min(at + PIECE, limit)]
                self.wfile.write(piece)
                sent += len(piece)
                if is_storage:
                    hub.sent += len(piece)
                    self.wfile.flush()
                    if hub.gate is not None and sent >= hub.gate_after:
                        hub.began.set()
                        hub.gate.wait(60)
                if limit is not None and sent >= limit:
                    self.close_connection = True
                    self.connection.close()
                    return

        def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):  # the caller left, or a test broke the answer off
                super().handle()

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    return Handler


@contextlib.contextmanager
def hub_server(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """A running hub with its storage."""
    hub = Hub({name: dict(files) for name, files in repositories.items()})
    with contextlib.ExitStack() as stack:
        for is_storage in (False, True):
            server = QuietServer(("127.0.0.1", 0), _handler(hub, is_storage))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            address = f"http://127.0.0.1:{server.server_address[1]}"
            if is_storage:
                hub.storage_url = address
            else:
                hub.url = address
        yield hub
        if hub.gate is not None:
            hub.gate.set()
