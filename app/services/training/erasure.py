"""A user leaves the training material: samples, datasets, summaries, pairs, checkpoints, and the registry of runs."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.errors import InvalidInput
from app.services.keys import DEFAULT_TENANT
from app.services.training.collector import TrainingDataCollector
from app.services.training.pair_files import PAIRS_FOLDER, erase_pairs, pairs_folder
from app.services.training.run_files import (
    DATASETS_FOLDER,
    RunFolder,
    all_marked,
    datasets_folder,
    drop_all,
    remove_datasets,
    unregistered,
)
from app.services.training.trainer import ModelTrainer
from app.store.training import RunStore

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Erasure:
    """What went, by table and file; what cannot go, the adapters that were trained on the user's samples; adapters of
    which nobody can tell, for their split.key is lost; and whether datasets were deleted whole for the same reason."""

    erased: Mapping[str, int] = field(default_factory=dict[str, int])
    trained_adapters: tuple[str, ...] = ()
    unsure_adapters: tuple[str, ...] = ()
    has_deleted_datasets: bool = False


@dataclass(frozen=True)
class TrainingErasure:
    """Erases a user from everything that training made of their samples."""

    collector: TrainingDataCollector
    trainer: ModelTrainer
    runs: RunStore
    models_dir: Path

    async def erase_user(self, connection: AsyncConnection, tenant_id: str, user_id: str) -> Erasure:
        """Erase the user's samples and rows, and take their key out of every run; the caller commits.

        Files come first and each is durable, so whatever breaks it off, it can be called again. The checkpoints of
        every run of the tenant that was broken off go too: they hold rows, and nobody can tell whose.
        """
        erased, is_deleted = await asyncio.to_thread(self._erase_files, tenant_id, user_id)
        names: list[str] = []
        unsure: list[str] = []
        key = await asyncio.to_thread(self.trainer.split_key)
        user_key = None if key is None else key.user(tenant_id, user_id)
        if user_key is not None:
            for run in await self.runs.forget_user(connection, tenant_id, user_key):
                names.append(run.run_id)
                await asyncio.to_thread(RunFolder(Path(run.folder)).forget_user, user_key)
        for run in await self.runs.folders(connection, tenant_id):
            await asyncio.to_thread(RunFolder(Path(run.folder)).drop_checkpoints)
            if key is None or run.key_id != key.key_id:
                unsure.append(run.run_id)
        return Erasure(erased, tuple(sorted(names)), tuple(sorted(unsure)), is_deleted)

    def finish(self) -> None:
        """Delete the checkpoints of scripts that were killed after somebody whose rows they hold was erased."""
        drop_all(all_marked(self.models_dir))

    def _erase_files(self, tenant_id: str, user_id: str) -> tuple[dict[str, int], bool]:
        """Lines and rows removed by file, and whether datasets had to be deleted whole."""
        removed: Counter[str] = Counter(self.collector.erase_user(tenant_id, user_id))
        is_deleted = False
        places = {datasets_folder(self.collector.directory, name) for name in (tenant_id, DEFAULT_TENANT)}
        for folder in sorted(places):  # those of `default` may have been made of all tenants' samples
            try:
                rows = self.trainer.erase_user(tenant_id, user_id, folder)
            except InvalidInput:
                rows, is_deleted = remove_datasets(folder), True
                _log.warning("training_datasets_deleted", rows=sum(rows.values()))
            for name, count in rows.items():
                removed[f"{DATASETS_FOLDER}/{name}"] += count
        pairs, is_lost = erase_pairs(
            pairs_folder(self.collector.directory, tenant_id), self.trainer.split_key(), tenant_id, user_id
        )
        removed.update({f"{PAIRS_FOLDER}/{name}": count for name, count in pairs.items()})
        if is_lost:
            is_deleted = True
            _log.warning("training_pairs_deleted", rows=sum(pairs.values()))
        self.finish()
        drop_all(unregistered(self.models_dir, self.collector.directory))
        return dict(removed), is_deleted
