"""A run before its judge: what is loaded, compared, written down and let go; and what is not judged at all."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from app.domain.datasets import DatasetOptions
from app.domain.deployments import Route
from app.domain.errors import ModelUnavailable, NotFound, NotReady
from app.ports import Judged
from app.services.training import judging
from app.services.training.judge import Judge, Judgement
from app.services.training.judging import RunJudge
from app.services.training.runs import Run, RunService
from app.store.training import Deployment, DeploymentStore
from tests.integration.test_runs import BASE, fake, runs, samples, settings, trained

__all__ = ["fake", "runs", "samples", "settings"]


@dataclass
class Adapters:
    """A server that takes every adapter."""

    base_model: str = BASE
    held: dict[str, Path] = field(default_factory=dict[str, Path])

    async def load(self, adapter: str, folder: Path) -> None:
        self.held[adapter] = folder

    async def unload(self, adapter: str) -> None:
        self.held.pop(adapter, None)

    async def loaded(self) -> frozenset[str]:
        return frozenset(self.held)


@dataclass(frozen=True)
class Said:
    """A judgement that says what it is told to."""

    is_accepted: bool
    refusals: Sequence[str] = ()

    def document(self) -> Mapping[str, Any]:
        return {"is_accepted": self.is_accepted, "refusals": list(self.refusals)}


@dataclass
class FakeJudge:
    """Notes what it is asked; says what `says` says."""

    says: Said | Exception
    asked: list[tuple[list[str], str | None, str | None, Path | None]] = field(default_factory=list[Any])

    async def judge(
        self, rows: Sequence[Path], candidate: Any, serving: Any, *, reward_model: Path | None = None, **_: Any
    ) -> Judgement:
        self.asked.append(([path.name for path in rows], candidate, serving, reward_model))
        if isinstance(self.says, Exception):
            raise self.says
        return cast(Judgement, self.says)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> FakeJudge:
    def write_report(folder: Path, judgement: Judgement, metrics: Mapping[str, Any] | None = None) -> Path:
        (folder / "judgement").mkdir(exist_ok=True)
        (folder / "judgement" / "report.md").write_text(str(judgement.is_accepted))
        return folder / "judgement" / "report.md"

    monkeypatch.setattr(judging, "write_report", write_report)
    return FakeJudge(Said(True))


@pytest.fixture
def court(runs: RunService, judge: FakeJudge) -> RunJudge:
    """Models are told by their names."""
    return RunJudge(runs, cast(Judge, judge), Adapters(), lambda adapter: cast(Judged, adapter))


async def serve(runs: RunService, tenant: str, run: Run, share: float = 1.0) -> None:
    async with runs.database.begin(tenant) as connection:
        held = await DeploymentStore().latest(connection, tenant)
        route = (held.route if held else Route()).promoted(run.run_id, share)
        number = held.number + 1 if held else 1
        made = Deployment(number, "promote", run.run_id, route, "", runs.clock.now())
        assert await DeploymentStore().insert(connection, tenant, made)


async def test_an_accepted_run_is_judged_against_the_base_model_and_stays_loaded(
    court: RunJudge, judge: FakeJudge, runs: RunService, samples: Path, tenant: str
) -> None:
    run = await trained(runs, tenant)
    judged = await court.judge_run(tenant, run.run_id)
    assert judge.asked == [(["hypotheses_chat.heldout.jsonl", "hypotheses_chat.later.jsonl"], run.run_id, None, None)]
    assert judged.status == "accepted"
    assert judged.judgement == {"is_accepted": True, "refusals": [], "against": None}
    assert (run.folder / "judgement" / "report.md").read_text() == "True"
    assert cast(Adapters, court.server).held == {run.run_id: run.folder / "adapter"}


async def test_a_refused_run_is_let_go_unless_it_answers_somebody(
    court: RunJudge, judge: FakeJudge, runs: RunService, samples: Path, tenant: str
) -> None:
    judge.says = Said(False, ["too slow"])
    stable, tried, third = [await trained(runs, tenant) for _ in range(3)]
    await serve(runs, tenant, stable)
    await serve(runs, tenant, tried, 0.1)
    judged = await court.judge_run(tenant, third.run_id)
    assert (judged.status, judged.judgement) == (
        "refused",
        {"is_accepted": False, "refusals": ["too slow"], "against": stable.run_id},
    )
    assert judge.asked[0][1:3] == (third.run_id, stable.run_id)
    assert set(await court.server.loaded()) == {stable.run_id}
    await court.judge_run(tenant, tried.run_id)
    assert set(await court.server.loaded()) == {stable.run_id, tried.run_id}, "it answers a tenth of the users"


async def test_a_judge_that_fails_leaves_the_run_as_it_was(
    court: RunJudge, judge: FakeJudge, runs: RunService, samples: Path, tenant: str
) -> None:
    run = await trained(runs, tenant)
    judge.says = ModelUnavailable("gone")
    with pytest.raises(ModelUnavailable):
        await court.judge_run(tenant, run.run_id)
    assert (await runs.get(tenant, run.run_id)).status == "trained"
    assert await court.server.loaded() == frozenset()


async def test_later_rows_count_only_for_the_dataset_that_was_trained_on(
    court: RunJudge, judge: FakeJudge, runs: RunService, samples: Path, tenant: str
) -> None:
    run = await trained(runs, tenant)
    key = runs.trainer.split_key()
    assert key is not None
    row = json.loads((runs.datasets_folder(tenant) / "hypotheses_chat.jsonl").read_text().splitlines()[0])
    gone = next(f"u{n}" for n in range(40) if key.user(tenant, f"u{n}") == row["meta"]["user"])
    runs.trainer.erase_user(tenant, gone, runs.datasets_folder(tenant))
    await court.judge_run(tenant, run.run_id)
    assert judge.asked[0][0] == ["hypotheses_chat.heldout.jsonl"]


async def test_what_cannot_be_judged_is_said_before_anything_is_loaded(
    court: RunJudge, runs: RunService, samples: Path, tenant: str, other_tenant: str
) -> None:
    run, theirs = await trained(runs, tenant), await trained(runs, other_tenant)
    begun = await runs.create(tenant, "sft", base_model=BASE)
    reward = await runs.train(tenant, (await runs.create(tenant, "reward", base_model=BASE)).run_id)
    with pytest.raises(NotFound):
        await court.judge_run(tenant, theirs.run_id)
    with pytest.raises(NotReady, match="not trained to its end"):
        await court.judge_run(tenant, begun.run_id)
    with pytest.raises(NotReady, match="rates answers and writes none"):
        await court.judge_run(tenant, reward.run_id)
    with pytest.raises(NotReady, match="no trained reward model"):
        await court.judge_run(tenant, run.run_id, reward_run=run.run_id)
    with pytest.raises(NotReady, match="was made for"):
        await replace(court, server=Adapters("another/model")).judge_run(tenant, run.run_id)
    await serve(runs, tenant, run)
    with pytest.raises(NotReady, match="serves already"):
        await court.judge_run(tenant, run.run_id)
    assert await court.server.loaded() == frozenset()


async def test_users_who_were_trained_on_do_not_judge(
    court: RunJudge, judge: FakeJudge, runs: RunService, samples: Path, tenant: str
) -> None:
    """Datasets prepared anew with more users held out: some of those were trained on."""
    run = await trained(runs, tenant)
    options = DatasetOptions(heldout_share=0.6)
    await runs.trainer.prepare_training_dataset(runs.datasets_folder(tenant), tenant, options=options)
    with pytest.raises(NotReady, match=r"--heldout-share 0\.1"):
        await court.judge_run(tenant, run.run_id)
    await runs.trainer.prepare_training_dataset(runs.datasets_folder(tenant), tenant)
    assert (await court.judge_run(tenant, run.run_id)).status == "accepted"


async def test_a_reward_run_rates_the_answers_of_another(
    court: RunJudge, judge: FakeJudge, runs: RunService, samples: Path, tenant: str
) -> None:
    run = await trained(runs, tenant)
    reward = await runs.train(tenant, (await runs.create(tenant, "reward", base_model=BASE)).run_id)
    await court.judge_run(tenant, run.run_id, reward.run_id)
    assert judge.asked[0][3] == reward.folder / "adapter", "it has no merged model"
    await asyncio.to_thread((reward.folder / "config.json").write_text, "{}")
    await court.judge_run(tenant, run.run_id, reward.run_id)
    assert judge.asked[1][3] == reward.folder
