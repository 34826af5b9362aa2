"""A trained run before its judge: loaded beside what serves, compared on held-out choices, accepted or refused."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.domain.datasets import CHAT
from app.domain.errors import AdapterRefused, ModelUnavailable, NotFound, NotReady
from app.domain.runs import check_judgeable
from app.ports import AdapterServer, Judged
from app.services.training.dataset_files import read_summary
from app.services.training.judge import Judge, Judgement, OnProgress
from app.services.training.report import write_report
from app.services.training.run_files import RunFolder, users_in
from app.services.training.runs import Run, RunService
from app.store.engine import Database

_log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class RunJudge:
    """Has runs judged. `model` gives the model that is judged, for an adapter or, without one, the base model."""

    runs: RunService
    judge: Judge
    server: AdapterServer
    model: Callable[[str | None], Judged]

    @property
    def database(self) -> Database:
        """Where the runs are kept."""
        return self.runs.database

    async def judge_run(
        self, tenant_id: str, run_id: str, reward_run: str | None = None, on_progress: OnProgress | None = None
    ) -> Run:
        """The run, `accepted` or `refused`, with its judgement in its row and the report in its folder.

        A refused adapter that answers nobody is unloaded. Raises NotFound, NotReady (what cannot be judged, and why),
        AdapterRefused and ModelUnavailable.
        """
        run = await self.runs.get(tenant_id, run_id)
        check_judgeable(run_id, run.method, run.status)
        if run.base_model != self.server.base_model:
            raise NotReady(f"{run_id} was made for {run.base_model}, and vLLM serves {self.server.base_model}.")
        reward = None if reward_run is None else await self.runs.reward_model(tenant_id, reward_run)
        serving = await self._serving(tenant_id, run_id)
        rows = await self._rows(tenant_id, run)
        folder = RunFolder(run.folder)
        is_kept = run.answers > 0
        await self.server.load(run_id, folder.adapter)
        try:
            if serving is not None:
                await self.server.load(serving.run_id, RunFolder(serving.folder).adapter)
            candidate, present = self.model(run_id), self.model(serving.run_id if serving else None)
            metrics = folder.metrics()
            judgement = await self.judge.judge(
                rows, candidate, present, reward_model=reward, metrics=metrics, on_progress=on_progress
            )
            await asyncio.to_thread(write_report, folder.path, judgement, metrics)
            is_kept = is_kept or judgement.is_accepted
            return await self._note(tenant_id, run_id, judgement, serving)
        finally:
            if not is_kept:
                with suppress(ModelUnavailable, AdapterRefused):  # what made it fail is the news
                    await self.server.unload(run_id)

    async def _serving(self, tenant_id: str, run_id: str) -> Run | None:
        """The run that answers everybody but a canary; None: the base model does."""
        async with self.runs.database.begin(tenant_id) as connection:
            held = await self.runs.deployments.latest(connection, tenant_id)
        stable = held.route.stable if held else None
        if stable == run_id:
            raise NotReady(f"{run_id} serves already: there is nothing to compare it with.")
        return None if stable is None else await self.runs.get(tenant_id, stable)

    async def _rows(self, tenant_id: str, run: Run) -> list[Path]:
        """The held-out users' choices, and the later ones of the others where the run was trained on this very
        dataset: of another one nobody can tell which choices came later. Raises NotReady where there are none, or where
        users who were trained on are held out now."""
        folder = self.runs.datasets_folder(tenant_id)
        summary, heldout = read_summary(folder), folder / f"{CHAT}.heldout.jsonl"
        if summary is None or not heldout.exists():
            raise NotReady("There are no datasets: embed-service train datasets")
        async with self.runs.database.begin(tenant_id) as connection:
            row = await self.runs.runs.get(connection, tenant_id, run.run_id)
        if row is None:
            raise NotFound("no such training run")
        if await asyncio.to_thread(users_in, heldout) & set(row.user_keys):
            share = run.metadata.get("heldout_share")
            raise NotReady(
                f"{run.run_id} was trained on users who are held out now: prepare the datasets with the share of then, "
                f"embed-service train datasets --heldout-share {share}"
            )
        trained_on = f"{run.metadata['dataset']}.jsonl"
        present = summary["files"].get(trained_on, {}).get("sha256")  # none of a bundle's own file
        is_same = present is not None and present == run.metadata.get("data_sha256", {}).get(trained_on)
        return [heldout, folder / f"{CHAT}.later.jsonl"] if is_same else [heldout]

    async def _note(self, tenant_id: str, run_id: str, judgement: Judgement, serving: Run | None) -> Run:
        status = "accepted" if judgement.is_accepted else "refused"
        document = {**judgement.document(), "against": serving.run_id if serving else None}
        async with self.runs.database.begin(tenant_id) as connection:
            await self.runs.runs.change(connection, tenant_id, run_id, status=status, judgement=document)
        _log.info("training_run_judged", run_id=run_id, status=status, refusals=list(judgement.refusals))
        return await self.runs.get(tenant_id, run_id)
