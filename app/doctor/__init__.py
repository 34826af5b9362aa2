"""What is wrong with this installation, and what mends it: `embed-service doctor`.

Every part is looked at by itself and in a limited time, so that a broken one never hides the others. Who looks
(`look_at_*`, `find_*`, `try_*`, `measure_*`) returns facts or raises Unfit; who judges (`judge_*`) is pure and makes
a Check of them; who checks (`check_*`) does both. Nothing is repaired and no row is written; the embedded database
is started where it does not run, and stopped afterwards.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import httpx2
import structlog
from rich.console import Console

from app.doctor.check import Check, Unfit
from app.doctor.database import (
    LOOK_LIMIT_S,
    START_LIMIT_S,
    DatabaseFacts,
    find_revisions,
    judge_database,
    judge_keys,
    judge_migrations,
    judge_pgvector,
    judge_tenancy,
    look_at_database,
)
from app.doctor.embedder import EmbedderFacts, judge_embedder, judge_vectors, measure_embedder
from app.doctor.machine import check_disk, check_port, check_training, check_venv
from app.doctor.reranker import check_reranker
from app.doctor.slm import (
    Model,
    ModelServer,
    check_builtin,
    find_models,
    judge_answers,
    judge_models,
    slm_server,
    try_answers,
)
from app.doctor.web import REQUEST_LIMIT_S
from app.settings import Settings

LIMIT_S = 5.0
DATABASE_LIMIT_S = START_LIMIT_S + 2 * LOOK_LIMIT_S
EMBEDDER_LIMIT_S = 30.0
"""The built-in model loads in a second, from a cold disk in several."""

T = TypeVar("T")
Say = Callable[[Sequence[str]], None]
Work = Coroutine[Any, Any, Check]


def examine_visibly(settings: Settings, console: Console) -> list[Check]:
    """As `examine`, from outside a loop; on a terminal a line says what is still being looked at."""
    if not console.is_terminal:
        return asyncio.run(examine(settings))
    with console.status("looking") as status:
        return asyncio.run(examine(settings, lambda parts: status.update(f"looking at {', '.join(parts)}")))


def silence_logs() -> None:
    """Log nowhere, for where there is no folder for logs: standard output belongs to the report."""
    logging.getLogger().addHandler(logging.NullHandler())
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())


async def examine(settings: Settings, say: Say = lambda parts: None) -> list[Check]:
    """Every part's check, in a fixed order. `say` is told which parts are still being looked at."""
    async with httpx2.AsyncClient(timeout=REQUEST_LIMIT_S) as client, _Shared(settings, client) as shared:
        return await _gather(_works(settings, client, shared), say)


class _Shared:
    """What several checks need: looked at once, all at the same time."""

    def __init__(self, settings: Settings, client: httpx2.AsyncClient) -> None:
        self.server = slm_server(settings)
        self.database = asyncio.create_task(look_at_database(settings))
        # In a loop of its own: loading would stand in the way of every other check's clock.
        self.embedder = asyncio.create_task(_in_thread(lambda: asyncio.run(measure_embedder(settings))))
        self.models = asyncio.create_task(find_models(self.server, client)) if self.server else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks: list[asyncio.Task[Any] | None] = [self.database, self.embedder, self.models]
        begun = [task for task in tasks if task is not None]
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


def _works(settings: Settings, client: httpx2.AsyncClient, shared: _Shared) -> dict[str, tuple[float, Work]]:
    """How each part is checked, and within how many seconds."""
    database, embedder = shared.database, shared.embedder

    def of_database(part: str, judge: Callable[[DatabaseFacts], Check]) -> tuple[float, Work]:
        return DATABASE_LIMIT_S, _unless_unfit(part, "the database does not answer", _judged(database, judge))

    return {
        "settings": (LIMIT_S, _in_thread(lambda: check_settings(settings))),
        "database": (DATABASE_LIMIT_S, _judged(database, judge_database)),
        "migrations": of_database("migrations", lambda facts: judge_migrations(facts, find_revisions())),
        "row-level security": of_database("row-level security", judge_tenancy),
        "pgvector": of_database("pgvector", judge_pgvector),
        "embedder": (EMBEDDER_LIMIT_S, _judged(embedder, judge_embedder)),
        "stored vectors": (DATABASE_LIMIT_S, _vectors_check(database, embedder)),
        "slm": (3 * LIMIT_S, _slm_check(settings, shared.server, shared.models)),
        "slm answers": (
            3 * LIMIT_S + 2 * settings.request_budget_s,
            _answers_check(settings, shared.server, shared.models, client),
        ),
        "reranker": (2 * LIMIT_S, check_reranker(settings, client)),
        "venv-vllm": (2 * LIMIT_S, check_venv(settings)),
        "disk": (LIMIT_S, _in_thread(lambda: check_disk(settings))),
        "training directory": (LIMIT_S, _in_thread(lambda: check_training(settings))),
        "keys": of_database("keys", lambda facts: judge_keys(facts.keys, settings.host)),
        "port": (3 * LIMIT_S, check_port(settings, client)),
    }


async def _gather(works: dict[str, tuple[float, Work]], say: Say) -> list[Check]:
    waiting = list(works)

    async def run(part: str, limit_s: float, work: Work) -> Check:
        check = await guarded(part, limit_s, work)
        waiting.remove(part)
        say(waiting)
        return check

    say(waiting)
    return await asyncio.gather(*(run(part, *limited) for part, limited in works.items()))


async def guarded(part: str, limit_s: float, work: Awaitable[Check]) -> Check:
    """The check that `work` makes; whatever happens in it is a check, too."""
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except Unfit as unfit:
        return Check(part, "wrong", unfit.found, unfit.mend)
    except TimeoutError:
        return Check(part, "wrong", f"no answer within {limit_s:g} s")
    except Exception as error:  # noqa: BLE001 - a part that fails in a way nobody foresaw must not hide the others
        return Check(part, "wrong", f"{type(error).__name__}: {error}")


async def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread that nobody waits for at the end: a disk that hangs must not hold up the exit."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", result))
        else:
            future.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is awaited
            failed = error
        with suppress(RuntimeError):  # the loop is closed: it came too late
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, daemon=True).start()
    return await future


async def _judged(facts: "asyncio.Task[T]", judge: Callable[[T], Check]) -> Check:
    """The verdict on facts that others wait for, too. Raises Unfit where there are none."""
    return judge(await asyncio.shield(facts))


async def _unless_unfit(part: str, reason: str, work: Awaitable[Check]) -> Check:
    """A part that is off where what it stands on cannot work; that one's own check says why."""
    try:
        return await work
    except Unfit:
        return Check(part, "off", f"not looked at: {reason}")


def check_settings(settings: Settings) -> Check:
    """Which implementations are chosen, and where from."""
    source = ".env is read" if Path(".env").is_file() else "no .env here: environment and defaults"
    chosen = (
        f"SLM_IMPL={settings.slm_impl}",
        "database embedded" if settings.database_url is None else "database of DATABASE_URL",
        "embedder built in" if settings.embed_endpoint is None else "embedder of EMBED_ENDPOINT",
    )
    return Check("settings", "ok", f"{source}; {', '.join(chosen)}")


async def _vectors_check(database: "asyncio.Task[DatabaseFacts]", embedder: "asyncio.Task[EmbedderFacts]") -> Check:
    async def compare() -> Check:
        facts = await asyncio.shield(database)
        return await _unless_unfit(part, "the embedder does not answer", with_space(facts))

    async def with_space(facts: DatabaseFacts) -> Check:
        async with asyncio.timeout(EMBEDDER_LIMIT_S):
            spaces = facts.spaces if facts.has_revision else dict[str, int]()
            return judge_vectors(spaces, (await asyncio.shield(embedder)).space)

    part = "stored vectors"
    return await _unless_unfit(part, "the database does not answer", compare())


async def _slm_check(
    settings: Settings, server: ModelServer | None, models: "asyncio.Task[Sequence[Model]] | None"
) -> Check:
    if server is not None and models is not None:
        return judge_models(server, await asyncio.shield(models))
    if settings.slm_impl == "builtin":
        return await _in_thread(lambda: check_builtin(settings))
    return Check("slm", "ok", "local: rules, built in; no language model is asked")


async def _answers_check(
    settings: Settings,
    server: ModelServer | None,
    models: "asyncio.Task[Sequence[Model]] | None",
    client: httpx2.AsyncClient,
) -> Check:
    part = "slm answers"
    if server is None or models is None:
        return Check(part, "off", f"no server to ask with SLM_IMPL={settings.slm_impl}")
    try:
        listed = await asyncio.shield(models)
    except Unfit:
        return Check(part, "off", "not asked: the server lists no models")
    model = server.model or listed[0].id
    if model not in {each.id for each in listed}:
        return Check(part, "off", f"not asked: {model} is not served")
    return judge_answers(await try_answers(server, model, client, settings.request_budget_s), settings.request_budget_s)
