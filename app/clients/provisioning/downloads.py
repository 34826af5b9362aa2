"""A file over HTTP: resumed where it was broken off, checked, and under its name only when it is whole."""

import asyncio
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from app.clients.provisioning.web import Lost, answer
from app.domain.errors import ProvisionFailed

PARTIAL = ".partial"
TRIES = 6
"""In a row without a byte more."""

PAUSE_S = 0.5
CHUNK = 1024 * 1024
_BLOCK_WAIT_S = 0.1


@dataclass(frozen=True)
class Wanted:
    """What a download has to come to: its length in bytes, and its SHA-256 or the name git has for it (the SHA-1 of a
    header and the content)."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def is_met(self, path: Path) -> bool:
        """Whether a file is that, by all of its bytes."""
        if path.stat().st_size != self.size:
            return False
        return (self.sha256 is None or sha256_of(path) == self.sha256) and (
            self.git_sha1 is None or git_sha1_of(path) == self.git_sha1
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1_of(path: Path) -> str:
    """The name that git has for a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


class Download:
    """One file from one address. `etag`: what the server calls this content; another one is refused."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        url: str,
        target: Path,
        wanted: Wanted,
        *,
        who: str,
        name: str,
        etag: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._url = url
        self._target = target
        self._partial = target.with_name(target.name + PARTIAL)
        self._wanted = wanted
        self._who = who
        self._name = name
        self._etag = etag
        self._headers = dict(headers or {})
        self._brought = 0

    async def run(self, tell: Callable[[int], None]) -> int:
        """Bring the file; how many bytes came over the network. `tell` hears how many of its bytes are here. Raises
        ProvisionFailed; what is here by then stays, and the next run goes on after it."""
        failures, most = 0, self._held()
        is_new = most == 0
        while True:
            try:
                await self._go_on(self._held(), tell)
            except Lost as error:
                failures = 1 if self._held() > most else failures + 1
                most = max(most, self._held())
                if failures >= TRIES:
                    kept = f"; {self._held():,} bytes of it are kept for the next time" if self._held() else ""
                    raise ProvisionFailed(f"{self._name}: {error}{kept}") from None
                await asyncio.sleep(PAUSE_S * 2 ** (failures - 1))
                continue
            if await asyncio.to_thread(self._finish):
                return self._brought
            if is_new:
                raise ProvisionFailed(f"{self._name} from {self._who} has another hash than it should")
            is_new = True  # what lay here may have been of another file: once more from its start

    def _held(self) -> int:
        return self._partial.stat().st_size if self._partial.exists() else 0

    async def _go_on(self, held: int, tell: Callable[[int], None]) -> None:
        """Fetch what is missing after `held` bytes. Raises Lost where it broke off, ProvisionFailed where no other try
        will help."""
        if held > self._wanted.size:
            self._partial.unlink()
            held = 0
        if held == self._wanted.size and held > 0:
            return
        headers = self._headers | ({"Range": f"bytes={held}-"} if held else {})
        async with answer(
            self._client, "GET", self._url, self._who, headers=headers, follow_redirects=True
        ) as response:
            self._check(response, held)
            if response.status_code == 200:
                held = 0
            with self._partial.open("r+b" if held else "wb", buffering=CHUNK) as file:
                file.seek(held)
                async for part in response.aiter_bytes():
                    held += len(part)
                    self._brought += len(part)
                    if held > self._wanted.size:
                        raise ProvisionFailed(f"{self._name} from {self._who} is longer than it should be")
                    await asyncio.to_thread(file.write, part)
                    tell(held)
        if held < self._wanted.size:
            raise Lost(f"{self._who} ended early")

    def _check(self, response: httpx2.Response, held: int) -> None:
        status = response.status_code
        if status == 416:
            self._partial.unlink(missing_ok=True)
            raise Lost(f"{self._who} knows no byte {held:,}")
        if status in {408, 425, 429} or status >= 500:
            raise Lost(f"{self._who} answered {status}")
        if status not in {200, 206}:
            raise ProvisionFailed(f"{self._name}: {self._who} answered {status}")
        place = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if status == 206 and (place is None or int(place[1]) != held):
            raise ProvisionFailed(f"{self._name}: {self._who} sent another part than was asked for")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise ProvisionFailed(f"{self._name}: {self._who} sends it compressed, unasked")
        for each in (*response.history, response):
            tag = each.headers.get("x-linked-etag")
            if self._etag and tag and tag.removeprefix("W/").strip('"') != self._etag:
                raise ProvisionFailed(f"{self._name} was changed at {self._who} meanwhile: ask again")

    def _finish(self) -> bool:
        """Put the whole file under its name, for good; False, and the file gone, where it is another than wanted."""
        if not self._wanted.is_met(self._partial):
            self._partial.unlink()
            return False
        with self._partial.open("rb") as file:
            os.fsync(file.fileno())
        self._partial.replace(self._target)
        sync_folder(self._target.parent)
        return True


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None]:
    """The only one at work on something, in whichever process; a dead process's lock ends with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_BLOCK_WAIT_S)
        yield
    finally:
        os.close(descriptor)
