"""Models of the Hugging Face hub, brought into the hub's own cache: whoever loads one by its name finds it there.

The hub's paths: `GET /api/models/{repo}/revision/{revision}?blobs=true` lists files with sizes and hashes,
`GET /{repo}/resolve/{commit}/{path}` gives one. The cache's layout is that of `huggingface_hub`
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache), with its locks; that library itself is not needed.
"""

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.clients.provisioning.downloads import Download, Wanted, git_sha1_of, locked, sha256_of, sync_folder
from app.clients.provisioning.web import Unreachable, ask, counted, make_client
from app.clients.provisioning.weights import check_weights
from app.domain.errors import InvalidInput, ProvisionFailed
from app.domain.manifest import Model
from app.domain.manifest_fields import path_at
from app.ports import Progress, Provisioned

_WHO = "the hub"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
SPARE_BYTES = 64 * 1024 * 1024
"""Left free on the disk."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its blob is called by its hash, as the hub's etag says it."""

    path: str
    wanted: Wanted

    @property
    def etag(self) -> str:
        """SHA-256 of a large file, git's name of any other."""
        return self.wanted.sha256 or str(self.wanted.git_sha1)


@dataclass(frozen=True)
class Repository:
    """A model's place in the cache: content as blobs, and for each commit a folder of links to them."""

    folder: Path
    locks: Path

    @property
    def blobs(self) -> Path:
        """Where content lies under its hash."""
        return self.folder / "blobs"

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit."""
        return self.folder / "snapshots" / commit


class HuggingFaceProvider:
    """Brings what is missing of a repository, and checks all that is there."""

    def __init__(self, endpoint: str, home: Path, token: str | None = None) -> None:
        """`home` is HF_HOME; `token` is sent to `endpoint` alone."""
        self._endpoint = endpoint.rstrip("/")
        self._hub = home.expanduser() / "hub"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = make_client()

    async def provision(self, model: Model, tell: Callable[[Progress], None], *, force: bool = False) -> Provisioned:
        """See that the cache holds a revision of a repository, or the files of it that the manifest names. Files that
        are there are known by their hash; with `force` they are hashed again. Where the hub cannot be reached, a
        revision that the cache has is enough, but for `force`, if all of it has its hash."""
        tell(Progress("asking the hub"))
        repository = self._repository(model.name)
        try:
            commit, listed = await self._listed(model)
        except Unreachable:
            found = None if force else await asyncio.to_thread(_in_cache, repository, model)
            if found is None:
                raise
            return found
        files = _chosen(model, listed)
        missing = await asyncio.to_thread(_missing, repository, files, force)
        total = sum(file.wanted.size for file in files)
        if missing and model.auto_download is False:
            raise ProvisionFailed(f"{model.name} lacks {counted(len(missing), 'file')}, and auto_download is false")
        _check_space(self._hub, sum(file.wanted.size for file in missing))
        done = total - sum(file.wanted.size for file in missing)
        brought = 0
        for file in missing:
            stage = f"downloading {file.path}"
            brought += await self._bring(
                repository,
                model.name,
                commit,
                file,
                lambda here, at=done, what=stage: tell(Progress(what, at + here, total)),
            )
            done += file.wanted.size
        hashes = await asyncio.to_thread(_settle, repository, commit, files, model)
        size = f"{counted(len(files), 'file')}, {total:,} bytes, at commit {commit[:12]}"
        action = "downloaded" if brought else "present"
        return Provisioned(action, f"in the cache: {size}", brought, repository.snapshot(commit), hashes)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _repository(self, name: str) -> Repository:
        folder = f"models--{name.replace('/', '--')}"
        return Repository(self._hub / folder, self._hub / ".locks" / folder)

    async def _listed(self, model: Model) -> tuple[str, Sequence[HubFile]]:
        """The commit that a revision is, and its files."""
        revision = model.revision or "main"
        url = f"{self._endpoint}/api/models/{model.name}/revision/{quote(revision, safe='')}?blobs=true"
        status, document = await ask(self._client, "GET", url, _WHO, headers=self._headers, follow_redirects=True)
        if status in {401, 403}:
            raise ProvisionFailed(f"the hub does not show {model.name} to everybody: set HF_TOKEN, or check the name")
        if status == 404:
            raise ProvisionFailed(f"the hub has no {model.name} at the revision {revision}")
        match document:
            case {"sha": str(commit), "siblings": [*entries]} if status == 200 and _COMMIT.fullmatch(commit):
                return commit, [_hub_file(model.name, entry) for entry in entries]
            case _:
                raise ProvisionFailed(f"the hub answered {status} and no list of files: check HF_ENDPOINT")

    async def _bring(
        self, repository: Repository, name: str, commit: str, file: HubFile, tell: Callable[[int], None]
    ) -> int:
        """Download a blob, unless another process has by now; how many bytes came."""
        url = f"{self._endpoint}/{name}/resolve/{commit}/{quote(file.path)}"
        blob = repository.blobs / file.etag
        await asyncio.to_thread(repository.blobs.mkdir, parents=True, exist_ok=True)
        async with locked(repository.locks / f"{file.etag}.lock"):
            if blob.exists():
                return 0
            download = Download(
                self._client, url, blob, file.wanted, who=_WHO, name=file.path, etag=file.etag, headers=self._headers
            )
            return await download.run(tell)


def _hub_file(name: str, entry: Any) -> HubFile:
    """A file as the hub lists it. Raises ProvisionFailed for one that has no hash, or whose path leads elsewhere."""
    match entry:
        case {"rfilename": str(path), "lfs": {"sha256": str(digest), "size": int(size)}} if _SHA256.fullmatch(digest):
            wanted = Wanted(size, sha256=digest)
        case {"rfilename": str(path), "blobId": str(digest), "size": int(size)} if _COMMIT.fullmatch(digest):
            wanted = Wanted(size, git_sha1=digest)
        case _:
            raise ProvisionFailed(f"the hub lists a file of {name} without its size and hash")
    try:
        path_at(path, ())
    except InvalidInput:
        raise ProvisionFailed(f"the hub lists a file of {name} whose path leads elsewhere") from None
    return HubFile(path, wanted)


def _chosen(model: Model, listed: Sequence[HubFile]) -> Sequence[HubFile]:
    """The files that the manifest names, else all. Raises ProvisionFailed for one that is missing or another."""
    if not model.files:
        if not listed:
            raise ProvisionFailed(f"{model.name} has no files")
        return listed
    found = {file.path: file for file in listed}
    for path, sha256 in model.files:
        if path not in found:
            raise ProvisionFailed(f"{model.name} has no file {path}")
        said = found[path].wanted.sha256
        if None not in {sha256, said} and sha256 != said:
            raise ProvisionFailed(f"{path} has the SHA-256 {said} at the hub, not the one of the manifest")
    return [found[path] for path in dict(model.files)]


def _missing(repository: Repository, files: Sequence[HubFile], force: bool) -> Sequence[HubFile]:
    """The files whose content is not in the cache; what is there under a hash and is something else is deleted."""
    missing: list[HubFile] = []
    for file in {file.etag: file for file in files}.values():
        blob = repository.blobs / file.etag
        if not blob.is_file():
            missing.append(file)
        elif not (file.wanted.is_met(blob) if force else blob.stat().st_size == file.wanted.size):
            blob.unlink()
            missing.append(file)
    return missing


def _in_cache(repository: Repository, model: Model) -> Provisioned | None:
    """What the cache has of a revision by itself, every file hashed; None where something is missing or another."""
    revision = model.revision or "main"
    reference = repository.folder / "refs" / revision
    commit = reference.read_text("ascii", "replace").strip() if reference.is_file() else revision
    snapshot = repository.snapshot(commit)
    if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
        return None
    pinned = dict(model.files)
    names = list(pinned) or [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if not path.is_dir()]
    hashes: dict[str, str] = {}
    for name in names:
        path = snapshot / name
        if not path.is_file():
            return None
        hashes[name], etag = sha256_of(path), path.resolve().name
        if etag not in {hashes[name], git_sha1_of(path)} or pinned.get(name) not in {None, hashes[name]}:
            return None
    if not names:
        return None
    detail = f"in the cache: {counted(len(names), 'file')} at commit {commit[:12]}; the hub cannot be reached"
    return Provisioned("present", detail, place=snapshot, hashes=hashes)


def _check_space(folder: Path, needed: int) -> None:
    if not needed:
        return
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise ProvisionFailed(f"{needed:,} bytes are missing, and only {free:,} are free where HF_HOME is")


def _settle(repository: Repository, commit: str, files: Sequence[HubFile], model: Model) -> Mapping[str, str]:
    """Check what the manifest pins, name the blobs in the commit's folder, and the commit by its revision; the
    SHA-256 of the files that have one."""
    hashes: dict[str, str] = {}
    for file in files:
        blob = repository.blobs / file.etag
        pinned = dict(model.files).get(file.path)
        if file.wanted.sha256 or pinned:
            hashes[file.path] = file.wanted.sha256 or sha256_of(blob)
        if pinned not in {None, hashes.get(file.path)}:
            raise ProvisionFailed(f"{file.path} has the SHA-256 {hashes[file.path]}, not the one of the manifest")
        _link(blob, repository.snapshot(commit) / file.path)
        if file.wanted.size:
            check_weights(repository.snapshot(commit) / file.path, file.path)
    revision = model.revision or "main"
    if revision != commit:
        reference = repository.folder / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        _write(reference, commit)
    return hashes


def _link(blob: Path, path: Path) -> None:
    """Make `path` a link to a blob, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    goal = os.path.relpath(blob, path.parent)
    if path.is_symlink() and str(path.readlink()) == goal:
        return
    beside = path.with_name(f".{secrets.token_hex(8)}")
    beside.symlink_to(goal)
    beside.replace(path)


def _write(path: Path, text: str) -> None:
    """Have a small file hold a text, whole or not at all."""
    beside = path.with_name(f".{secrets.token_hex(8)}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)
