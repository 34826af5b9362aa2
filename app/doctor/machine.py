"""This machine: room on its disks, vLLM's environment, the training directory, the port."""

import asyncio
import errno
import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx2

from app.doctor.check import Check
from app.doctor.web import json_in
from app.services.training import TrainingDataCollector
from app.settings import Settings

SPARSE_BYTES = 2 * 1000**3
FULL_BYTES = 200 * 1000**2

VENV = Path("venv-vllm")
_UNFINISHED = ".setup-vllm-begun"  # ./setup_vllm.sh removes it at its end
_GPU_LIMIT_S = 5.0


class Room(NamedTuple):
    """A folder, the variable that names it, and the free bytes there: None where it is not writable."""

    variable: str
    folder: Path
    free: int | None


async def check_venv(settings: Settings) -> Check:
    """Whether vLLM can be started on this machine, where it should run here."""
    if settings.slm_impl != "vllm":
        return Check("venv-vllm", "off", f"not used with SLM_IMPL={settings.slm_impl}")
    if not is_here(settings.vllm_base_url):
        return Check("venv-vllm", "off", f"not used: vLLM runs on {urlsplit(settings.vllm_base_url).hostname}")
    return judge_venv(*find_venv(VENV), await _listens(settings.vllm_base_url), await find_gpu())


def find_venv(folder: Path) -> tuple[bool, bool]:
    """Whether vLLM's environment is there, and whether its installation came to its end."""
    return folder.is_dir(), (folder / "bin/python").exists() and not (folder / _UNFINISHED).exists()


def judge_venv(is_there: bool, is_finished: bool, is_served: bool, gpu: str | None) -> Check:
    """Whether vLLM can be started here, and on what. `is_served`: something listens where it should."""
    device = gpu or "CPU only (nvidia-smi shows no GPU)"
    if is_finished:
        return Check("venv-vllm", "ok", f"{VENV}; {device}")
    found = f"{VENV}: {'its installation is not finished' if is_there else 'not there'}; {device}"
    if is_served:
        return Check("venv-vllm", "ok", f"{found}; not needed: a server listens already")
    return Check("venv-vllm", "warning", found, "./setup_vllm.sh")


async def find_gpu() -> str | None:
    """What nvidia-smi shows; None where there is no such command, or it fails."""
    query = ("--query-gpu=name,memory.total", "--format=csv,noheader")
    try:
        process = await asyncio.create_subprocess_exec(
            "nvidia-smi", *query, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_GPU_LIMIT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        return None
    return "; ".join(said.decode(errors="replace").splitlines()) or None if process.returncode == 0 else None


async def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def is_here(url: str) -> bool:
    """Whether an address is one of this machine's."""
    host = urlsplit(url).hostname or ""
    return is_loopback(host) or host in ("0.0.0.0", "::", socket.gethostname())  # noqa: S104 - compared, not bound


def is_loopback(host: str) -> bool:
    """Whether a name or an address can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_disk(settings: Settings) -> Check:
    """Whether data and logs can be written, and how much room they have."""
    folders = (("DATA_DIR", settings.data_dir), ("LOG_DIR", settings.log_dir))
    return judge_disk([Room(variable, folder, measure_room(folder)) for variable, folder in folders])


def measure_room(folder: Path) -> int | None:
    """Free bytes for what is written into a folder, which need not exist; None when nothing can be."""
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        if nearest == folder.absolute():
            with tempfile.TemporaryFile(dir=nearest):
                pass
        elif not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            return None
        return shutil.disk_usage(nearest).free
    except OSError as error:
        return 0 if error.errno in (errno.ENOSPC, errno.EDQUOT) else None


def judge_disk(rooms: Sequence[Room]) -> Check:
    """The verdict on the worst of the rooms."""
    found = ", ".join(
        f"{folder}: {'not writable' if free is None else f'{free / 1e9:,.1f} GB free'}" for _, folder, free in rooms
    )
    worst = min(rooms, key=lambda room: -1 if room.free is None else room.free)
    if worst.free is None:
        mend = f"make {worst.folder} writable for this user, or point {worst.variable} to another folder"
        return Check("disk", "wrong", found, mend)
    mend = f"free some, or point {worst.variable} to another disk"
    if worst.free < FULL_BYTES:
        return Check("disk", "wrong", found, mend)
    if worst.free < SPARSE_BYTES:
        return Check("disk", "warning", found, mend)
    return Check("disk", "ok", found)


def check_training(settings: Settings) -> Check:
    """What was collected, and whether more can be."""
    folder = settings.training_dir
    collector = TrainingDataCollector(folder, is_enabled=settings.enable_training_data_collection, max_bytes=1)
    is_there, is_writable = folder.is_dir(), measure_room(folder) is not None
    counts = collector.get_training_stats() if is_there and is_writable else {}
    damaged = {name: lines for name, lines in collector.damaged_lines.items() if lines}
    return judge_training(folder, collector.is_enabled, is_there, is_writable, counts, damaged)


def judge_training(
    folder: Path,
    is_enabled: bool,
    is_there: bool,
    is_writable: bool,
    counts: Mapping[str, int],
    damaged: Mapping[str, int],
) -> Check:
    """Whether samples can be written and read. `damaged`: lines that are no sample, by file."""
    part = "training directory"
    switch = f"collection {'on' if is_enabled else 'off'}; {folder}"
    if not is_writable and (is_enabled or is_there):
        mend = f"make {folder} writable for this user, or point TRAINING_DATA_DIR to another folder"
        return Check(part, "wrong", f"{switch}: not writable", mend)
    if not is_there:
        return Check(part, "ok" if is_enabled else "off", f"{switch}: nothing there yet")
    samples = ", ".join(f"{_kind(name)} {count:,}" for name, count in counts.items() if count) or "no samples"
    if damaged:
        lines = ", ".join(f"{count} in {name}" for name, count in damaged.items())
        mend = "nothing has to: readers skip them, and the next `embed-service users erase` removes them"
        return Check(part, "warning", f"{switch}: {samples}; damaged lines: {lines}", mend)
    return Check(part, "ok" if is_enabled else "off", f"{switch}: {samples}")


def _kind(name: str) -> str:
    """A count's name in words."""
    return name.removesuffix("_count").removesuffix("_samples").replace("_", " ")


async def check_port(settings: Settings, client: httpx2.AsyncClient) -> Check:
    """Whether the service can listen where it should, or does so already."""
    version = await _find_service(f"http://{_reachable(settings.host)}:{settings.port}", client)
    if version is not None:
        return Check("port", "ok", f"{settings.host}:{settings.port}: an Embed Service {version} answers")
    return judge_port(settings.host, settings.port, try_to_listen(settings.host, settings.port))


async def _find_service(base: str, client: httpx2.AsyncClient) -> str | None:
    """The version of the Embed Service that answers there; None where none does."""
    try:
        alive = json_in(await client.get(f"{base}/healthz"))
        about = json_in(await client.get(f"{base}/info")) if alive == {"status": "ok"} else None
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None
    match about:
        case {"name": "embed-service", "version": str(version)}:
            return version
        case _:
            return None


def _reachable(host: str) -> str:
    """The address at which a service that listens on `host` answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host


def try_to_listen(host: str, port: int) -> OSError | None:
    """Take an address for a moment; why it cannot be taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error
    return None


def judge_port(host: str, port: int, error: OSError | None) -> Check:
    """Whether an address can be taken, by the error of trying."""
    where = f"{host}:{port}"
    if error is None:
        return Check("port", "ok", f"{where} is free")
    if error.errno == errno.EADDRINUSE:
        mend = f"PORT={port + 1 if port < 65535 else 8080}, or any other that is free"
        return Check("port", "wrong", f"{where} is held by something that is not an Embed Service", mend)
    if error.errno == errno.EACCES:
        return Check("port", "wrong", f"{where}: this user may not listen there", "PORT=8080, or any from 1024 on")
    found = f"{where}: cannot listen there ({error.strerror or error})"
    return Check("port", "wrong", found, "HOST=127.0.0.1, or another address of this machine")
