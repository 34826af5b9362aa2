"""Bundles: built, broken off and carried on, judged like any run; and the registry's file says what routes say."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from app.domain.bundles import BundlePlan
from app.domain.deployments import Route
from app.domain.errors import InvalidInput, NotReady
from app.ports import Judged, SystemClock
from app.services.afterwards import Afterwards
from app.services.deployments import DeploymentService
from app.services.keys import DEFAULT_TENANT
from app.services.training.bundles import BundleService
from app.services.training.judge import Judge
from app.services.training.judging import RunJudge
from app.services.training.registry import AdapterRegistry
from app.services.training.run_files import RunFolder, users_in
from app.services.training.runs import Run
from app.settings import Settings
from app.store.engine import Database
from app.store.tenants import TenantStore
from app.store.training import DeploymentStore, RunStore
from app.wiring_training import build_bundles, build_collector, build_erasure, build_runs, build_trainer
from tests.fake_training import FakeTraining
from tests.fakes import FakeAdapterServer
from tests.integration.test_deployments import make_run, until
from tests.integration.test_judging import Adapters, FakeJudge, judge
from tests.integration.test_runs import fake, samples, settings

__all__ = ["fake", "judge", "samples", "settings"]

BASE = "org/base-model"
USER = "ada"


@pytest.fixture
def bundles(settings: Settings, database: Database) -> BundleService:
    """The use cases about bundles."""
    return build_bundles(settings, build_runs(settings, database, build_trainer(build_collector(settings))))


@pytest.fixture
def plan(tmp_path: Path, tenant: str, bundles: BundleService) -> BundlePlan:
    """A file of conversations, of which every fourth is of a user of the service."""
    key = bundles.runs.trainer.make_split_key().user(tenant, USER)
    rows = [
        {
            "prompt": f"question {n}: {'abcdefgh'[n % 8]} {n * 37}",
            "completion": f"answer {n * 91}",
            "meta": {"user": key if n % 4 == 0 else ""},
        }
        for n in range(20)
    ]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return BundlePlan(dataset_path=file, tenant=tenant, run_name="a label", max_steps=3)


class Watched:
    """What a build told."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    async def build(self, bundles: BundleService, run: Run, tenant: str) -> Run:
        return await bundles.build(tenant, run.run_id, lambda *_: None, lambda _: None, self.stages.append)


async def build(bundles: BundleService, run: Run, tenant: str) -> Run:
    return await Watched().build(bundles, run, tenant)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


async def test_a_bundle_is_a_run_a_checkpoint_and_an_entry_that_agree(
    bundles: BundleService, settings: Settings, plan: BundlePlan, tenant: str
) -> None:
    run = await build(bundles, await bundles.create(plan, BASE), tenant)

    assert run.status == "trained"
    assert [one.run_id for one in await bundles.runs.list(tenant)] == [run.run_id]
    checkpoint = run.folder / "checkpoint"
    for folder in (run.folder, checkpoint):
        assert read(folder / "run_metadata.json")["run_name"] == "a label"
        assert read(folder / "dataset_summary.json")["files"]["dataset.jsonl"]["rows"] == 20
        manifest = read(folder / "adapter_manifest.json")["adapter"]
        assert (manifest["name"], manifest["run_id"]) == ("a label", run.run_id)
        assert (folder / manifest["path"] / "adapter_model.safetensors").is_file()
    (entry,) = read(settings.local_models_dir / "adapters.json")["adapters"]
    assert entry["path"] == f"{run.run_id}/adapter"
    assert entry["checkpoint"] == f"{run.run_id}/checkpoint"
    assert entry["base_model"] == BASE
    assert entry["share"] == 0
    assert entry["metrics"] == {
        "before": {"loss": 1.0},
        "after": {"loss": 0.5},
        "checkpoint": {"smoke": {"dimension": 8}},
    }
    assert entry["dataset"]["rows"] == 20
    assert bundles.registry.read().current is None, "it does not serve by itself"
    assert not (run.folder / "checkpoints").exists(), "no row stays beside a model"


async def test_an_erasure_names_the_bundle_that_a_user_s_rows_went_into(
    bundles: BundleService, settings: Settings, database: Database, plan: BundlePlan, tenant: str
) -> None:
    run = await build(bundles, await bundles.create(plan, BASE), tenant)
    assert run.metadata["users"] == 1
    async with database.begin(tenant) as connection:
        erased = await build_erasure(settings, bundles.runs.trainer).erase_user(connection, tenant, USER)
    assert erased.trained_adapters == (run.run_id,)
    assert erased.unsure_adapters == ()
    assert read(run.folder / "run_metadata.json")["users"] == []


async def test_a_build_that_was_broken_off_in_training_goes_on(
    bundles: BundleService, fake: FakeTraining, plan: BundlePlan, tenant: str
) -> None:
    fake.goes("hangs")
    made = await bundles.create(plan, BASE)
    work = asyncio.create_task(build(bundles, made, tenant))
    await until((made.folder / "checkpoints" / "progress.jsonl").exists)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not RunFolder(made.folder).is_running()
    assert not bundles.registry.path.exists()
    fake.goes("well")
    done = await build(bundles, made, tenant)
    assert done.metadata["metrics"]["resumed_from_step"] == 2
    assert bundles.registry.read().names == {made.run_id}


async def test_a_build_whose_checkpoint_failed_is_not_trained_again(
    bundles: BundleService, fake: FakeTraining, plan: BundlePlan, tenant: str
) -> None:
    fake.goes("makes no checkpoint")
    made = await bundles.create(plan, BASE)
    with pytest.raises(NotReady, match="there is not enough memory"):
        await build(bundles, made, tenant)
    assert not bundles.registry.path.exists()
    fake.goes("well")
    watched = Watched()
    await watched.build(bundles, made, tenant)
    assert watched.stages == ["making the checkpoint"]
    assert bundles.registry.read().names == {made.run_id}
    await watched.build(bundles, made, tenant)
    assert watched.stages == ["making the checkpoint"], "what is built is built"


async def test_a_pipeline_that_outlived_its_builder_is_waited_for(
    bundles: BundleService, fake: FakeTraining, plan: BundlePlan, tenant: str
) -> None:
    """As after `kill -9` of the command: whoever carries on does not begin a second one beside it."""
    fake.goes("hangs in the pipeline")
    made = await bundles.create(plan, BASE)
    watched = Watched()
    work = asyncio.create_task(watched.build(bundles, made, tenant))
    await until(lambda: "making the checkpoint" in watched.stages and RunFolder(made.folder).is_running())
    second = asyncio.create_task(build(bundles, made, tenant))
    await asyncio.sleep(1)
    assert not second.done()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    with pytest.raises(NotReady, match="could not be made"):
        await second


async def test_data_without_a_row_fails_the_run_and_says_why(
    bundles: BundleService, settings: Settings, plan: BundlePlan, tenant: str, tmp_path: Path
) -> None:
    (tmp_path / "chats.jsonl").write_text('{"prompt": "a"}\n')
    made = await bundles.create(plan, BASE)
    with pytest.raises(InvalidInput, match="no row to train on: of 1 lines malformed 1"):
        await build(bundles, made, tenant)
    assert (await bundles.runs.get(tenant, made.run_id)).status == "failed"
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(InvalidInput, match="name another folder"):
        await bundles.create(plan.model_copy(update={"output": taken}), BASE)


async def test_the_checkpoint_goes_where_it_is_asked_for(
    bundles: BundleService, plan: BundlePlan, tenant: str, tmp_path: Path
) -> None:
    output = tmp_path / "models" / "mine"
    run = await build(bundles, await bundles.create(plan.model_copy(update={"output": output}), BASE), tenant)
    (entry,) = bundles.registry.read().adapters
    assert (entry.checkpoint, entry.path) == ("mine", f"{run.run_id}/adapter")
    assert read(output / "adapter_manifest.json")["adapter"]["path"] == "adapters"


async def test_a_bundle_is_judged_like_any_run(
    bundles: BundleService, samples: Path, judge: FakeJudge, tenant: str, tmp_path: Path
) -> None:
    """Trained on the tenant's own dataset, or on other data: the held-out users' choices are what counts."""
    await bundles.runs.trainer.prepare_training_dataset(bundles.runs.datasets_folder(tenant), tenant)
    own = bundles.runs.datasets_folder(tenant) / "hypotheses_chat.jsonl"
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "a question", "completion": "an answer"}\n')
    court = RunJudge(bundles.runs, cast(Judge, judge), Adapters(), lambda adapter: cast(Judged, adapter))
    for file, users in ((own, users_in(own)), (other, frozenset[str]())):
        run = await build(bundles, await bundles.create(BundlePlan(dataset_path=file, tenant=tenant), BASE), tenant)
        judged = await court.judge_run(tenant, run.run_id)
        assert judged.status == "accepted"
        assert judge.asked[-1][:2] == (["hypotheses_chat.heldout.jsonl"], run.run_id)
        assert run.metadata["users"] == len(users)
        assert len(read(run.folder / "run_metadata.json")["users"]) == len(users)


# ---- what routes say


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    return AdapterRegistry(tmp_path / "registry" / "adapters.json")


@pytest.fixture
def deployments(database: Database, registry: AdapterRegistry) -> DeploymentService:
    server = FakeAdapterServer()
    return DeploymentService(
        database, server, RunStore(), DeploymentStore(), SystemClock(), Afterwards(), registry=registry
    )


async def test_the_file_says_what_every_promotion_and_rollback_says(
    deployments: DeploymentService, registry: AdapterRegistry, database: Database, tenant: str, tmp_path: Path
) -> None:
    await deployments.publish(tenant)
    assert not registry.path.exists(), "nothing was ever deployed"
    first, second = [await make_run(database, tenant, tmp_path) for _ in range(2)]
    steps = [
        (deployments.promote(tenant, first, 1), {first: 1.0}),
        (deployments.promote(tenant, second, 0.25), {first: 0.75, second: 0.25}),
        (deployments.promote(tenant, second, 1), {first: 0.0, second: 1.0}),
        (deployments.rollback(tenant, second, "tried"), {first: 1.0, second: 0.0}),
    ]
    for step, shares in steps:
        await step
        held = registry.read()
        assert {one.run_id: one.share for one in held.adapters} == shares
        assert held.current is None, "another tenant's route concerns its own users"


async def test_the_default_tenant_s_route_says_what_is_current(
    deployments: DeploymentService, registry: AdapterRegistry, database: Database, tmp_path: Path
) -> None:
    async with database.begin(DEFAULT_TENANT) as connection:
        await TenantStore().ensure(connection, DEFAULT_TENANT)
    run = await make_run(database, DEFAULT_TENANT, tmp_path)
    await deployments.promote(DEFAULT_TENANT, run, 1)
    assert registry.read().current == run
    await registry.change(lambda held: held.pointing_at(None), SystemClock().now())
    await deployments.publish(DEFAULT_TENANT)
    assert registry.read().current is None, "what was set by hand holds"
    registry.path.unlink()
    await deployments.publish(DEFAULT_TENANT)
    assert registry.read().current == run, "a lost file is written again"
    before = (await deployments.status(DEFAULT_TENANT)).route
    await deployments.rollback(DEFAULT_TENANT, run, "tried")
    assert registry.read().current == Route(before.stack[:-1]).stable


async def test_concurrent_changes_leave_the_newest_one_in_the_file(
    deployments: DeploymentService, registry: AdapterRegistry, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 0.1)
    await asyncio.gather(*(deployments.promote(tenant, run, share) for share in (0.2, 0.3, 0.4)))
    (entry,) = registry.read().adapters
    assert entry.share == (await deployments.status(tenant)).route.share


async def test_a_file_that_cannot_be_used_is_no_reason_to_refuse_a_route(
    deployments: DeploymentService, registry: AdapterRegistry, database: Database, tenant: str, tmp_path: Path
) -> None:
    registry.path.parent.mkdir()
    registry.path.write_text("{")
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)
    assert (await deployments.status(tenant)).route == Route((run,))
    assert registry.path.read_text() == "{"
