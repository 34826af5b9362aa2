"""Bundles: a run on a file of conversations, and the checkpoint for chat and embeddings that is made of its adapter.

local-models/RUN/             the run, as `embed-service train` knows it; dataset_summary.json beside its adapter
local-models/RUN/checkpoint/  what is served: adapters, merged weights, wrapper (or where `output` says)
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from app.domain.bundles import BundlePlan
from app.domain.datasets import SUMMARY_FILE
from app.domain.errors import DomainError, InvalidInput, NotReady
from app.domain.runs import RESUMABLE
from app.services.training.bundle_rows import EVAL_FILE, TRAIN_FILE, OnRows, RowCheck, Source, tokenizer_of
from app.services.training.dataset_files import document, write_durably
from app.services.training.registry import AdapterRegistry, checkpoint_of, described, output_of
from app.services.training.run_files import RunFolder
from app.services.training.runs import CHECKOUT, Run, RunService
from app.services.training.script_process import OnTraining, run_beside
from app.services.training.scripts import TrainingOptions
from app.services.training.trainer import ModelTrainer

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)

MANIFEST_FILE = "adapter_manifest.json"
PIPELINE = CHECKOUT / "scripts" / "dolphin_llm2vec_pipeline.py"

_FETCH = Path(__file__).with_name("fetch_rows.py.tmpl")


@dataclass(frozen=True)
class BundleData:
    """Finds the files of a plan and has their rows checked. `python` is the training environment's, which fetches data
    sets of the hub; `hub_cache` is where that keeps models."""

    trainer: ModelTrainer
    python: Path
    hub_cache: Path

    async def check(
        self, plan: BundlePlan, base_model: str, max_tokens: int, folder: Path | None, report: OnRows
    ) -> dict[str, Any]:
        """Check the rows, and write those that may be trained on into `folder`, None for nowhere; the summary. Raises
        InvalidInput (no file, no row), NotReady (no data set of the hub), ModelUnavailable (a package is missing)."""
        with ExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bundle-")))
            train = await self._source(plan.dataset_path, plan.dataset_id, "train", place)
            evaluation = await self._evaluation(plan, place)
            count, tokenizer = self.trainer.counter(tokenizer_of(base_model, self.hub_cache))
            check = RowCheck(count, max_tokens=max_tokens, near_duplicate=plan.near_duplicate)
            summary = await asyncio.to_thread(check.run, train, evaluation, folder, report)
        return {**summary, "run_name": plan.run_name, "base_model": base_model, "tokenizer": tokenizer}

    async def _evaluation(self, plan: BundlePlan, place: Path) -> Source | None:
        """What the plan names; else NAME.heldout.jsonl beside NAME.jsonl, as for every training."""
        if plan.eval_dataset_path is not None or plan.eval_dataset_id is not None:
            return await self._source(plan.eval_dataset_path, plan.eval_dataset_id, "test", place)
        if plan.dataset_path is None:
            return None
        beside = plan.dataset_path.with_suffix(f".heldout{plan.dataset_path.suffix}")
        return Source(beside, beside.name) if beside.is_file() else None

    async def _source(self, path: Path | None, dataset_id: str | None, split: str, place: Path) -> Source:
        if path is not None:
            return Source(path, path.name)
        name, _, named = str(dataset_id).partition(":")
        file = place / f"{split}.jsonl"
        await self._fetch(name, named or split, file)
        return Source(file, f"{name}:{named or split}")

    async def _fetch(self, name: str, split: str, file: Path) -> None:
        if not self.python.exists():
            raise NotReady(f"Data sets of the hub are fetched by {self.python}, which is missing: ./setup_training.sh")
        process = await asyncio.create_subprocess_exec(
            str(self.python),
            "-P",
            str(_FETCH),
            name,
            split,
            str(file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            last = complaint.decode("utf8", "replace").strip().rpartition("\n")[2]
            raise NotReady(f"{name} ({split}) cannot be had: {last[:300]}.")


@dataclass(frozen=True)
class BundleService:
    """Builds bundles. `registry` is where finished ones are entered."""

    runs: RunService
    data: BundleData
    registry: AdapterRegistry

    async def create(self, plan: BundlePlan, base_model: str) -> Run:
        """A new build, not begun: its run. Raises InvalidInput for what cannot be trained or is in the way."""
        self.runs.check_python()
        plan = _resolved(plan)
        if plan.output is not None and plan.output.exists():
            raise InvalidInput(f"{plan.output} exists: name another folder.", "output")
        for path in (plan.dataset_path, plan.eval_dataset_path):
            if path is not None and not path.is_file():
                raise InvalidInput(f"There is no file {path}.", "dataset_path")
        options = options_of(plan)
        key = self.runs.trainer.make_split_key()
        metadata = {
            "dataset": plan.dataset_path.name if plan.dataset_path is not None else plan.dataset_id,
            "run_name": plan.run_name,
            "tenant": key.tenant(plan.tenant),
            "hyper_parameters": asdict(options),
        }
        held = plan.model_dump(mode="json", exclude_none=True)
        return await self.runs.begin(plan.tenant, "sft", base_model, options, metadata, plan=held)

    async def build(
        self,
        tenant_id: str,
        run_id: str,
        on_rows: OnRows,
        on_training: OnTraining,
        on_stage: Callable[[str], None],
    ) -> Run:
        """Build to the end, from wherever it was broken off; the run, whose status is `failed` where the training was.

        Cancelling ends whatever is at work; it can be carried on. Raises NotFound, NotReady (no bundle, at work
        elsewhere, the checkpoint could not be made: why), and what `BundleData.check` raises.
        """
        run = await self.runs.get(tenant_id, run_id)
        plan = plan_of(run)
        if run.status in RESUMABLE:

            async def prepare(folder: RunFolder) -> None:
                on_stage("checking the data")
                await self._prepare(plan, run, folder, on_rows)
                on_stage("training")

            run = await self.runs.train(tenant_id, run_id, on_training, prepare)
            if run.status in RESUMABLE:
                return run
        if checkpoint_of(run) is None:
            on_stage("making the checkpoint")
            await self._make_checkpoint(run)
        await self._register(run)
        return run

    async def _prepare(self, plan: BundlePlan, run: Run, folder: RunFolder, on_rows: OnRows) -> None:
        """The rows, whole or not at all, and their summary, where they are not there yet."""
        if await asyncio.to_thread(folder.own_rows.is_file):
            return
        aside = folder.checkpoints / "preparing"  # an erasure clears it away with what else is in there
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700, parents=True)
        try:
            summary = await self.data.check(plan, run.base_model, options_of(plan).max_length, aside, on_rows)
            key = self.runs.trainer.make_split_key()
            write_durably(folder.path / SUMMARY_FILE, document({**summary, "key_id": key.key_id}))
            for name in (EVAL_FILE, TRAIN_FILE):  # what is trained on comes last: it says that all is there
                if (aside / name).exists():
                    (aside / name).replace(folder.checkpoints / name)
        except DomainError as error:
            values = {"status": "failed", "metadata": {**run.metadata, "error": [str(error)]}}
            async with self.runs.database.begin(plan.tenant) as connection:
                await self.runs.runs.change(connection, plan.tenant, run.run_id, **values)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    async def _make_checkpoint(self, run: Run) -> None:
        """Have the pipeline make it, in the training environment. Raises NotReady where it does not."""
        folder, output = RunFolder(run.folder), output_of(run)
        command: Sequence[str] = (
            str(self.runs.python),
            str(PIPELINE),
            *("--base-model", run.base_model),
            *("--adapter", str(folder.adapter)),
            *("--output", str(output)),
            "--resume",
        )
        await run_beside(command, folder)
        if checkpoint_of(run) is None:
            said = [line for line in folder.last_lines() if line.strip()]
            raise NotReady(f"{output} could not be made: {said[-1] if said else 'nobody says why'}; all: {folder.log}")

    async def _register(self, run: Run) -> None:
        """Summary, label and manifest beside the weights, and the entry in the registry, last of all."""
        checkpoint = output_of(run)
        write_durably(checkpoint / SUMMARY_FILE, await asyncio.to_thread((run.folder / SUMMARY_FILE).read_bytes))
        RunFolder(checkpoint).register({"bundle": run.run_id, "run_name": run.metadata.get("run_name")})
        for folder in (run.folder, checkpoint):
            entry = described(run, folder).model_dump(mode="json", exclude={"share"})
            write_durably(folder / MANIFEST_FILE, document({"schema_version": 1, "adapter": entry}))
        adapter = await asyncio.to_thread(self.registry.adapter_of, run)
        await self.registry.change(lambda held: held.with_adapter(adapter), self.runs.clock.now())
        _log.info("bundle_built", run_id=run.run_id)


def options_of(plan: BundlePlan) -> TrainingOptions:
    """A plan's hyper-parameters. The merged model is the checkpoint's."""
    chosen: dict[str, Any] = {**plan.knobs(), "export_merged": False}
    return TrainingOptions(**chosen)


def plan_of(run: Run) -> BundlePlan:
    """The plan that a run was begun with. Raises NotReady for one that is no bundle."""
    held = RunFolder(run.folder).plan()
    if held is None:
        raise NotReady(f"{run.run_id} is no bundle: embed-service train run --resume {run.run_id}")
    return BundlePlan.model_validate(held)


def _resolved(plan: BundlePlan) -> BundlePlan:
    """The plan with whole paths, which mean the same wherever it is carried on."""
    named = {name: getattr(plan, name) for name in ("dataset_path", "eval_dataset_path", "output", "registry_path")}
    return plan.model_copy(update={name: path.resolve() for name, path in named.items() if path is not None})
