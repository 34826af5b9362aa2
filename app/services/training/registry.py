"""The adapter registry as a file, which whoever serves can read: replaced as a whole, changed by one at a time."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from app.domain.adapters import Adapter, Registry, parse_registry
from app.domain.errors import NotReady
from app.services.keys import DEFAULT_TENANT
from app.services.training.dataset_files import document, locked, read_summary, write_durably
from app.services.training.run_files import RunFolder
from app.store.engine import Database
from app.store.training import DeploymentStore, RunStore

REGISTRY_FILE = "adapters.json"
CHECKPOINT_FILE = "wrapper_config.json"
WEIGHTS = "adapter_model.safetensors"

_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class AdapterRegistry:
    """The registry at `path`. No file is an empty registry."""

    path: Path

    def read(self) -> Registry:
        """What the file says. Raises InvalidInput where it is no registry."""
        try:
            return parse_registry(self.path.read_bytes(), str(self.path))
        except FileNotFoundError:
            return Registry()

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Hold the file against every other writer, of whichever process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        while True:
            with locked(lock, is_waiting=False) as is_free:
                if is_free:
                    yield
                    return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def change(self, decide: Callable[[Registry], Registry], now: datetime) -> Registry:
        """Make of the registry what `decide` makes of it; it is written only where that is something else."""
        async with self.locked():
            return self.write(decide, now)

    def write(self, decide: Callable[[Registry], Registry], now: datetime) -> Registry:
        """As `change`, for whoever holds the file."""
        held = self.read()
        made = decide(held)
        if made != held:
            made = made.model_copy(update={"updated_at": now})
            write_durably(self.path, document(made.model_dump(mode="json")))
        return made

    def adapter_of(self, run: Any) -> Adapter:
        """The entry of a trained run: a row of the registry of runs, or a Run. Raises NotReady where its weights are
        gone."""
        return described(run, self.path.parent)


async def publish_route(
    registry: AdapterRegistry,
    database: Database,
    runs: RunStore,
    deployments: DeploymentStore,
    tenant_id: str,
    now: datetime,
) -> None:
    """Have the file say what a tenant's route says; the route is read while the file is held, so that whoever writes
    last writes the newest one. Nothing where the tenant never deployed anything. Raises InvalidInput, NotReady and
    OSError where the file or an adapter cannot be used."""
    async with database.begin(tenant_id) as connection:
        if await deployments.latest(connection, tenant_id) is None:
            return
    async with registry.locked():
        async with database.begin(tenant_id) as connection:
            held = await deployments.latest(connection, tenant_id)
            if held is None:
                return
            own = await deployments.adapters(connection, tenant_id)
            known = registry.read().names
            served = {*held.route.stack, held.route.candidate} - {None} - known
            rows = [await runs.get(connection, tenant_id, str(name)) for name in sorted(map(str, served))]
        new = [await asyncio.to_thread(registry.adapter_of, row) for row in rows if row is not None]

        def decide(before: Registry) -> Registry:
            for adapter in new:
                before = before.with_adapter(adapter)
            before = before.with_route(own, held.route)
            return before.following(held.number, held.route.stable) if tenant_id == DEFAULT_TENANT else before

        registry.write(decide, now)


def described(run: Any, place: Path) -> Adapter:
    """A trained run as an adapter, its paths as seen from `place`; from its checkpoint the adapter that lies in there.
    Raises NotReady where its weights are gone."""
    folder = RunFolder(Path(run.folder))
    checkpoint = checkpoint_of(run)
    adapter = checkpoint / "adapters" if checkpoint is not None and checkpoint == place else folder.adapter
    weights = adapter / WEIGHTS
    try:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise NotReady(f"The weights of {run.run_id} are gone: {weights}") from None
    metadata: Mapping[str, Any] = run.metadata
    metrics: Mapping[str, Any] = metadata.get("metrics") or {}
    figures = {name: metrics[name] for name in ("before", "after") if metrics.get(name)}
    if checkpoint is not None:
        figures["checkpoint"] = RunFolder(checkpoint).metadata().get("metrics") or {}
    return Adapter(
        run_id=run.run_id,
        name=metadata.get("run_name") or run.run_id,
        path=_seen_from(adapter, place),
        checkpoint=None if checkpoint is None else _seen_from(checkpoint, place),
        sha256=digest,
        base_model=run.base_model,
        created_at=run.created_at,
        metrics=figures,
        dataset=_dataset(metadata, read_summary(folder.path)),
    )


def _dataset(metadata: Mapping[str, Any], summary: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run was trained on, in a few figures; `summary` is that of a run's own rows."""
    metrics: Mapping[str, Any] = metadata.get("metrics") or {}
    rows: Mapping[str, Any] = metrics.get("rows") or {}
    told: dict[str, Any] = {
        "name": metadata.get("dataset"),
        "rows": rows.get("train"),
        "eval_rows": rows.get("heldout"),
    }
    if summary is not None:
        checked: Mapping[str, Any] = summary["datasets"]["train"]
        told |= {name: checked[name] for name in ("duplicate_rate", "redacted", "label_balance")}
    return {**told, "sha256": metadata.get("data_sha256") or {}}


def output_of(run: Any) -> Path:
    """Where the checkpoint of a run is made: the folder that was asked for, else in the run's own."""
    folder = RunFolder(Path(run.folder))
    asked: str | None = (folder.plan() or {}).get("output")
    return Path(asked) if asked is not None else folder.path / "checkpoint"


def checkpoint_of(run: Any) -> Path | None:
    """The folder of the checkpoint that was made of a run's adapter, where it is whole; None for a run without."""
    return output_of(run) if (output_of(run) / CHECKPOINT_FILE).is_file() else None


def _seen_from(path: Path, place: Path) -> str:
    """Relative where it lies in there, so that both can be moved together; else absolute."""
    found, base = path.resolve(), place.resolve()
    return os.path.relpath(found, base) if found.is_relative_to(base) else str(found)
