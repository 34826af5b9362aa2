"""Training runs: begun, carried on, written down, shown. Each is a row and a folder of one name."""

import asyncio
import secrets
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import structlog

from app import VERSION
from app.domain.deployments import Route
from app.domain.errors import NotFound, NotReady
from app.domain.runs import RESUMABLE, answered_share, dataset_for, new_run_id
from app.ports import Clock
from app.services.training.dataset_files import document, locked, read_summary, write_durably
from app.services.training.run_files import RunFolder, all_marked, datasets_folder, drop_all, users_in
from app.services.training.script_process import OnTraining, run_script
from app.services.training.scripts import Method, TrainingOptions
from app.services.training.trainer import ModelTrainer
from app.store.engine import Database
from app.store.tables import AnyRow
from app.store.tenants import TenantStore
from app.store.training import DeploymentStore, RunStore

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Run:
    """A training run. `answers` is the share of the tenant's users whom its adapter answers now, 0..1."""

    run_id: str
    method: str
    base_model: str
    folder: Path
    status: str
    created_at: datetime
    finished_at: datetime | None
    metadata: Mapping[str, Any]
    judgement: Mapping[str, Any] | None
    erased_users: int
    answers: float = 0.0

    def document(self) -> dict[str, Any]:
        """As JSON."""
        moments = {"created_at": self.created_at, "finished_at": self.finished_at}
        shown = {name: None if moment is None else moment.isoformat() for name, moment in moments.items()}
        return {**vars(self), **shown, "folder": str(self.folder), "metadata": dict(self.metadata)}


@dataclass(frozen=True)
class RunService:
    """The use cases about runs. A run is a tenant's: made of its samples only, seen by it only."""

    database: Database
    clock: Clock
    tenants: TenantStore
    runs: RunStore
    deployments: DeploymentStore
    trainer: ModelTrainer
    models_dir: Path
    python: Path

    def datasets_folder(self, tenant_id: str) -> Path:
        """Where the datasets of a tenant lie."""
        return datasets_folder(self.trainer.collector.directory, tenant_id)

    async def create(
        self,
        tenant_id: str,
        method: Method,
        *,
        base_model: str,
        options: TrainingOptions | None = None,
        dataset: str | None = None,
        reward_run: str | None = None,
    ) -> Run:
        """A new run, not begun: its folder with the script in it, and its row.

        It takes the tenant's datasets, and prepares them where there are none. `dataset` is one of DATASETS' names,
        the method's own by default; `reward_run` a trained reward run, for GRPO. Raises NotReady without a training
        environment or rows, NotFound for the reward run, InvalidInput for what cannot be trained.
        """
        self.check_python()
        options = await self.with_reward(tenant_id, options or TrainingOptions(), reward_run)
        name = dataset_for(method, dataset)
        summary = await self._prepared(tenant_id)
        if not summary["files"][f"{name}.jsonl"]["rows"]:
            raise NotReady(f"{name}.jsonl has no rows to train on: collect choices, then embed-service train datasets")
        metadata = {
            "dataset": name,
            "prompt_version": summary["prompt_version"],
            "tenant": summary["tenant"],
            "hyper_parameters": {**asdict(options), "reward_model_path": reward_run},
        }
        rows = self.datasets_folder(tenant_id) / f"{name}.jsonl"
        return await self.begin(tenant_id, method, base_model, options, metadata, rows)

    async def begin(
        self,
        tenant_id: str,
        method: Method,
        base_model: str,
        options: TrainingOptions,
        metadata: Mapping[str, Any],
        rows: Path | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> Run:
        """A new run's folder, script and row. Without `rows`, a dataset's file, the run has its own: whoever trains it
        puts them into `RunFolder.own_rows`, and their summary into the folder; `plan` says where they come from.
        Raises InvalidInput for what cannot be trained."""
        run_id = new_run_id(method, self.clock.now(), secrets.token_hex(5))
        folder = RunFolder((self.models_dir / run_id).resolve())
        folder.path.mkdir(mode=0o700, parents=True)
        version = code_version()
        try:
            self.trainer.generate_training_script(
                (rows or folder.own_rows).resolve(),
                base_model,
                folder.path,
                method=method,
                options=options,
                script_path=folder.script,
                code_version=version,
            )
            if plan is not None:
                write_durably(folder.plan_file, document(dict(plan)))
            async with self.database.begin(tenant_id) as connection:
                await self.tenants.ensure(connection, tenant_id)
                row = {
                    "tenant_id": tenant_id,
                    "run_id": run_id,
                    "method": method,
                    "base_model": base_model,
                    "folder": str(folder.path),
                    "status": "training",
                    "created_at": self.clock.now(),
                    "metadata": {**metadata, "code_version": version, "has_own_rows": rows is None},
                }
                await self.runs.insert(connection, row)
        except BaseException:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        _log.info("training_run_created", run_id=run_id, method=method, dataset=metadata["dataset"])
        return await self.get(tenant_id, run_id)

    async def train(
        self,
        tenant_id: str,
        run_id: str,
        on_progress: OnTraining | None = None,
        prepare: Callable[[RunFolder], Awaitable[None]] | None = None,
    ) -> Run:
        """Train a run to its end, whose status is `trained` or `failed` then; one that was broken off goes on from its
        newest checkpoint, and one that is at work without anybody watching is watched. `prepare` makes the rows of a
        run that has its own, where they are not there.

        Cancelling ends the script; the run can be carried on. Raises NotFound, NotReady (trained already, watched by
        somebody else, no training environment).
        """
        self.check_python()
        run = await self.get(tenant_id, run_id)
        if run.status not in RESUMABLE:
            raise NotReady(f"{run_id} is {run.status}: it was trained to its end.")
        folder = RunFolder(run.folder)
        if not folder.script.exists():
            raise NotReady(f"The script of {run_id} is gone: begin a new run.")
        with locked(folder.path / ".watched", is_waiting=False) as is_alone:
            if not is_alone:
                raise NotReady(f"{run_id} is being trained at this moment.")
            await asyncio.to_thread(drop_all, all_marked(self.models_dir))
            if not folder.is_finished():
                if prepare is not None and not folder.is_running():
                    await prepare(folder)
                await self._note_data(tenant_id, run)
                try:
                    await run_script(self.python, folder, on_progress)
                finally:
                    folder.drop_marked()
            return await self._take_in(tenant_id, run_id, folder)

    async def get(self, tenant_id: str, run_id: str) -> Run:
        """A run of the tenant. Raises NotFound."""
        async with self.database.begin(tenant_id) as connection:
            row = await self.runs.get(connection, tenant_id, run_id)
            held = await self.deployments.latest(connection, tenant_id)
        if row is None:
            raise NotFound("no such training run")
        return run_of(row, held.route if held else Route())

    async def list(self, tenant_id: str, limit: int = 100) -> list[Run]:
        """The tenant's runs, newest first."""
        async with self.database.begin(tenant_id) as connection:
            rows = await self.runs.list(connection, tenant_id, limit)
            held = await self.deployments.latest(connection, tenant_id)
        return [run_of(row, held.route if held else Route()) for row in rows]

    def check_python(self) -> None:
        """Raises NotReady without a training environment."""
        if not self.python.exists():
            raise NotReady(f"There is no training environment ({self.python} is missing): run ./setup_training.sh")

    async def with_reward(self, tenant_id: str, options: TrainingOptions, reward_run: str | None) -> TrainingOptions:
        """The options with a reward run of the tenant, where one is named. Raises NotFound, NotReady."""
        if reward_run is None:
            return options
        folder = await self.reward_model(tenant_id, reward_run)
        return replace(options, grpo_rewards="model", reward_model_path=folder)

    async def reward_model(self, tenant_id: str, run_id: str) -> Path:
        """The folder of a trained reward run's model. Raises NotFound, NotReady."""
        rated = await self.get(tenant_id, run_id)
        if rated.method != "reward" or rated.status in RESUMABLE:
            raise NotReady(f"{run_id} is no trained reward model.")
        return reward_folder(rated)

    async def _prepared(self, tenant_id: str) -> dict[str, Any]:
        """The summary of datasets that hold this tenant's rows and nobody else's, prepared where there are none."""
        folder = self.datasets_folder(tenant_id)
        summary, key = read_summary(folder), self.trainer.split_key()
        is_ours = key is not None and summary is not None and summary["tenant"] == key.tenant(tenant_id)
        if summary is not None and is_ours:
            return summary
        await self.trainer.prepare_training_dataset(folder, tenant_id)
        return cast("dict[str, Any]", read_summary(folder))

    async def _note_data(self, tenant_id: str, run: Run) -> None:
        """Write down what the script is about to read: hashes, and whose rows. Who is erased meanwhile is taken out of
        the row by the erasure where it comes later, and here where the file shows that it came first."""
        dataset = RunFolder(run.folder).own_rows
        folder, mend = run.folder, f"python -m scripts.build_llm_bundle --resume {run.run_id}"
        if not run.metadata.get("has_own_rows"):
            folder, mend = self.datasets_folder(tenant_id), "embed-service train datasets"
            dataset = folder / f"{run.metadata['dataset']}.jsonl"
        summary = read_summary(folder)
        if summary is None or not dataset.exists():
            raise NotReady(f"{dataset} is gone: prepare its rows again, with {mend}")
        users = await asyncio.to_thread(users_in, dataset)
        files = summary["files"]
        metadata = {
            **{name: value for name, value in run.metadata.items() if name != "error"},
            "key_id": summary["key_id"],
            "heldout_share": summary["options"].get("heldout_share"),
            "data_sha256": {
                file: files[file]["sha256"] for file in (dataset.name, f"{dataset.stem}.heldout.jsonl") if file in files
            },
        }
        values = {"metadata": metadata, "user_keys": sorted(users), "status": "training"}
        async with self.database.begin(tenant_id) as connection:
            await self.runs.change(connection, tenant_id, run.run_id, **values)
        for gone in users - await asyncio.to_thread(users_in, dataset):
            async with self.database.begin(tenant_id) as connection:
                await self.runs.forget_user(connection, tenant_id, gone)

    async def _take_in(self, tenant_id: str, run_id: str, folder: RunFolder) -> Run:
        """Write what the script made into the row, and what the registry knows into the script's metadata. The row is
        held meanwhile, so that an erasure comes before, or finds both."""
        async with self.database.begin(tenant_id) as connection:
            row = await self.runs.get(connection, tenant_id, run_id, lock=True)
            if row is None:
                raise NotFound("no such training run")
            if not folder.is_finished():
                values = {"status": "failed", "metadata": {**row.metadata, "error": folder.last_lines()}}
            else:
                made = folder.metadata()
                fields = {"adapter": run_id, "users": sorted(row.user_keys), **_registered(row.metadata)}
                await asyncio.to_thread(folder.register, fields)
                values = {
                    "status": "trained",
                    "metadata": {**row.metadata, **_results(made, folder.metrics()), "users": len(row.user_keys)},
                }
            await self.runs.change(connection, tenant_id, run_id, finished_at=self.clock.now(), **values)
        _log.info("training_run_finished", run_id=run_id, status=values["status"])
        return await self.get(tenant_id, run_id)


def run_of(row: AnyRow, route: Route) -> Run:
    """A row as a run."""
    return Run(
        row.run_id,
        row.method,
        row.base_model,
        Path(row.folder),
        row.status,
        row.created_at,
        row.finished_at,
        row.metadata,
        row.judgement,
        row.erased_users,
        answered_share(route, row.run_id),
    )


def reward_folder(run: Run) -> Path:
    """Where a reward run's model is: merged in its folder, else the adapter's."""
    return run.folder if (run.folder / "config.json").is_file() else RunFolder(run.folder).adapter


def code_version() -> str:
    """The release, and the checkout's commit where there is git."""
    git = shutil.which("git")
    if git is None or not (CHECKOUT / ".git").exists():
        return VERSION
    asked = [git, "-C", str(CHECKOUT), "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    return f"{VERSION}+{done.stdout.strip()}" if done.returncode == 0 else VERSION


def _registered(metadata: Mapping[str, Any]) -> dict[str, Any]:
    names = ("tenant", "key_id", "dataset", "prompt_version", "heldout_share")
    return {
        **{name: metadata.get(name) for name in names},
        **({"run_name": metadata["run_name"]} if metadata.get("run_name") else {}),
    }


def _results(made: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What of the script's own words the row keeps: the data by file name, the figures without the curves."""
    figures = ("before", "after", "rows", "steps", "stopped_early", "resumed_from_step", "seconds", "peak_memory_mb")
    return {
        "data_sha256": {Path(path).name: digest for path, digest in made.get("data_sha256", {}).items()},
        "environment": made.get("environment"),
        "exports": made.get("exports"),
        "started_at": made.get("started_at"),
        "metrics": {name: metrics[name] for name in figures if name in metrics},
    }
