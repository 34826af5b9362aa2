"""Adapters that a model server lost, by a restart, are loaded again from their runs' folders."""

import asyncio
import time
from collections import defaultdict
from pathlib import Path

import structlog

from app.domain.errors import AdapterRefused, DomainError, ModelUnavailable
from app.ports import AdapterServer
from app.services.afterwards import Afterwards
from app.services.training.run_files import RunFolder
from app.store.engine import Database
from app.store.training import RunStore

log = structlog.get_logger(__name__)

FAILURE_PAUSE_S = 10.0
"""Seconds an adapter that could not be loaded is left alone."""


class AdapterLoader:
    """Loads an adapter once, however many requests miss it."""

    def __init__(
        self,
        server: AdapterServer | None,
        database: Database,
        runs: RunStore,
        afterwards: Afterwards,
        *,
        failure_pause_s: float = FAILURE_PAUSE_S,
    ) -> None:
        """`server` None: nothing is ever loaded."""
        self.server = server
        self._database = database
        self._runs = runs
        self._afterwards = afterwards
        self._failure_pause_s = failure_pause_s
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._begun: set[tuple[str, str]] = set()
        self._loaded_at: dict[tuple[str, str], float] = {}
        self._failed_at: dict[tuple[str, str], float] = {}

    async def begin(self, tenant_id: str, adapter: str) -> None:
        """Start loading an adapter in the background, unless that is under way or just failed."""
        key = tenant_id, adapter
        if key in self._begun or self._is_resting(tenant_id, adapter):
            return
        self._begun.add(key)
        log.warning("adapter_missing", adapter=adapter)
        await self._afterwards.give(self._load_missing(tenant_id, adapter), 0.0)

    async def ensure_loaded(self, tenant_id: str, adapter: str) -> bool:
        """Load an adapter of a tenant's run where the server lacks it; whether it is there now. Callers that come
        while it is loaded wait for that; where it just failed, the answer is False at once."""
        asked_at = time.monotonic()
        key = tenant_id, adapter
        async with self._locks[key]:
            if self._loaded_at.get(key, 0.0) > asked_at:
                return True
            if self.server is None or self._is_resting(tenant_id, adapter):
                return False
            self._failed_at[key] = time.monotonic()  # also where it ends by an error that nobody foresaw
            try:
                seconds = await self._load(self.server, tenant_id, adapter)
            except DomainError as error:
                self._failed_at[key] = time.monotonic()
                cause = error.cause if isinstance(error, ModelUnavailable) else "refused"
                log.warning("adapter_load_failed", adapter=adapter, cause=cause, reason=str(error))
                return False
            self._loaded_at[key] = time.monotonic()
            del self._failed_at[key]
        log.info("adapter_loaded", adapter=adapter, seconds=round(seconds, 3))
        return True

    async def _load(self, server: AdapterServer, tenant_id: str, adapter: str) -> float:
        """The seconds it took."""
        async with self._database.begin(tenant_id) as connection:
            run = await self._runs.get(connection, tenant_id, adapter)
        if run is None:
            raise AdapterRefused(f"the run {adapter} is not known any more")
        started = time.monotonic()
        await server.load(adapter, RunFolder(Path(run.folder)).adapter)
        return time.monotonic() - started

    async def _load_missing(self, tenant_id: str, adapter: str) -> None:
        try:
            await self.ensure_loaded(tenant_id, adapter)
        finally:
            self._begun.discard((tenant_id, adapter))

    def _is_resting(self, tenant_id: str, adapter: str) -> bool:
        failed_at = self._failed_at.get((tenant_id, adapter))
        return failed_at is not None and time.monotonic() - failed_at < self._failure_pause_s
