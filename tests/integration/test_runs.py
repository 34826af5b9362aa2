"""Training runs: begun, ended well or badly, broken off and carried on; each seen by its tenant alone."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.domain import training
from app.domain.datasets import DatasetOptions
from app.domain.deployments import Route
from app.domain.errors import InvalidInput, NotFound, NotReady
from app.domain.runs import is_run_id
from app.services.training.dataset_files import read_summary
from app.services.training.run_files import RunFolder, datasets_folder, users_in
from app.services.training.runs import Run, RunService
from app.services.training.script_process import Step
from app.services.training.scripts import TrainingOptions
from app.settings import Settings
from app.store.engine import Database
from app.store.training import Deployment, DeploymentStore
from app.wiring_training import build_collector, build_runs, build_trainer
from tests.fake_training import FakeTraining
from tests.integration.test_dataset_files import KEY, choice, write

BASE = "org/base-model"


@pytest.fixture
def fake(tmp_path: Path) -> FakeTraining:
    """A training environment that trains nothing."""
    return FakeTraining(tmp_path / "venv")


@pytest.fixture
def settings(tmp_path: Path, fake: FakeTraining) -> Settings:
    """Folders of the test's own."""
    own = {"data_dir": tmp_path / "data", "local_models_dir": tmp_path / "models", "train_venv": fake.venv}
    return Settings(_env_file=None, database_url=None, **own)


@pytest.fixture
def runs(settings: Settings, database: Database) -> RunService:
    """The use cases about runs."""
    return build_runs(settings, database, build_trainer(build_collector(settings)))


@pytest.fixture
def samples(settings: Settings, tenant: str, other_tenant: str) -> Path:
    """Choices of forty users of the tenant, and of ten of another one, with a key that holds some of them out."""
    folder = settings.training_dir
    folder.mkdir(parents=True)
    (folder / "split.key").write_bytes(KEY)
    write(folder, training.HYPOTHESES_FILE, *(choice(n, f"u{n % 40}", tenant_id=tenant) for n in range(80)))
    theirs = (choice(n, f"them{n % 10}", tenant_id=other_tenant) for n in range(200, 220))
    write(folder, training.HYPOTHESES_FILE, *theirs)
    return folder


async def row_of(runs: RunService, tenant: str, run_id: str) -> Any:
    async with runs.database.begin(tenant) as connection:
        return await runs.runs.get(connection, tenant, run_id)


async def trained(runs: RunService, tenant: str) -> Run:
    made = await runs.create(tenant, "sft", base_model=BASE)
    return await runs.train(tenant, made.run_id)


async def test_a_run_is_a_row_and_a_folder_that_agree(
    runs: RunService, settings: Settings, samples: Path, tenant: str
) -> None:
    options = TrainingOptions(learning_rate=0.001, max_steps=3)
    made = await runs.create(tenant, "sft", base_model=BASE, options=options)
    steps: list[Step] = []
    done = await runs.train(tenant, made.run_id, steps.append)

    assert (done.status, done.folder) == ("trained", (settings.local_models_dir / done.run_id).resolve())
    assert is_run_id(done.run_id)
    assert tenant not in done.run_id
    assert steps == [] or (steps[-1].step, steps[-1].total) <= (3, 3)
    written = json.loads((done.folder / "run_metadata.json").read_bytes())
    row = await row_of(runs, tenant, done.run_id)
    dataset = datasets_folder(samples, tenant) / "hypotheses_chat.jsonl"
    summary = read_summary(dataset.parent)
    assert summary is not None
    assert set(row.user_keys) == users_in(dataset) == set(written["users"]) != set()
    assert written["adapter"] == done.run_id
    assert written["key_id"] == summary["key_id"] == done.metadata["key_id"]
    assert written["code_version"] == done.metadata["code_version"]
    assert done.metadata["data_sha256"] == {
        name: summary["files"][name]["sha256"] for name in ("hypotheses_chat.jsonl", "hypotheses_chat.heldout.jsonl")
    }
    assert done.metadata["hyper_parameters"]["learning_rate"] == 0.001
    assert done.metadata["metrics"]["after"] == {"loss": 0.5}
    assert done.metadata["environment"] == {"device": "fake"}
    assert "training begins" in (done.folder / "training.log").read_text()
    assert "LEARNING_RATE = 0.001" in (done.folder / "train_model.py").read_text()
    assert not (samples / "train_model.py").exists(), "the script of a run lies in its folder only"
    with pytest.raises(NotReady, match="trained to its end"):
        await runs.train(tenant, done.run_id)


async def test_a_run_sees_its_tenant_s_samples_only_and_is_seen_by_it_only(
    runs: RunService, samples: Path, tenant: str, other_tenant: str
) -> None:
    done, theirs = await trained(runs, tenant), await trained(runs, other_tenant)
    key = runs.trainer.split_key()
    assert key is not None
    assert set((await row_of(runs, tenant, done.run_id)).user_keys) <= {key.user(tenant, f"u{n}") for n in range(40)}
    their_keys = set((await row_of(runs, other_tenant, theirs.run_id)).user_keys)
    assert their_keys <= {key.user(other_tenant, f"them{n}") for n in range(10)}
    assert [one.run_id for one in await runs.list(tenant)] == [done.run_id]
    for ask in (runs.get, runs.train):
        with pytest.raises(NotFound):
            await ask(tenant, theirs.run_id)


async def test_datasets_of_all_tenants_are_not_trained_on(runs: RunService, samples: Path, tenant: str) -> None:
    await runs.trainer.prepare_training_dataset(runs.datasets_folder(tenant), None)
    everybody = users_in(runs.datasets_folder(tenant) / "hypotheses_chat.jsonl")
    done = await trained(runs, tenant)
    assert set((await row_of(runs, tenant, done.run_id)).user_keys) < everybody


async def test_a_failed_run_says_why_and_can_be_carried_on(
    runs: RunService, fake: FakeTraining, samples: Path, tenant: str
) -> None:
    fake.goes("fails")
    failed = await trained(runs, tenant)
    assert failed.status == "failed"
    assert failed.metadata["error"] == ["training begins", "CUDA is out of memory, or so."]
    assert (failed.folder / "checkpoints").is_dir()
    fake.goes("well")
    done = await runs.train(tenant, failed.run_id)
    assert (done.status, done.metadata["metrics"]["resumed_from_step"]) == ("trained", 2)
    assert "error" not in done.metadata


async def test_a_cancelled_run_ends_its_script_and_goes_on_later(
    runs: RunService, fake: FakeTraining, samples: Path, tenant: str
) -> None:
    fake.goes("hangs")
    made = await runs.create(tenant, "sft", base_model=BASE)
    steps: list[Step] = []
    work = asyncio.create_task(runs.train(tenant, made.run_id, steps.append))
    await until(lambda: bool(steps) and steps[-1].step == 2)
    assert RunFolder(made.folder).is_running()
    with pytest.raises(NotReady, match="at this moment"):
        await runs.train(tenant, made.run_id)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert not RunFolder(made.folder).is_running()
    assert (await runs.get(tenant, made.run_id)).status == "training"
    fake.goes("well")
    assert (await runs.train(tenant, made.run_id)).metadata["metrics"]["resumed_from_step"] == 2


async def test_a_script_that_outlived_its_command_is_watched_to_its_end(
    runs: RunService, fake: FakeTraining, samples: Path, tenant: str
) -> None:
    """As after `kill -9` of the command: the script goes on, and resuming takes in what it makes."""
    made = await runs.create(tenant, "sft", base_model=BASE)
    fake.goes("hangs")
    orphan = await asyncio.create_subprocess_exec(fake.python, made.folder / "train_model.py")
    await until(RunFolder(made.folder).is_running)
    work = asyncio.create_task(runs.train(tenant, made.run_id))
    await asyncio.sleep(1)
    assert not work.done()
    orphan.kill()
    await orphan.wait()
    assert (await work).status == "failed"
    fake.goes("well")
    again = await asyncio.create_subprocess_exec(fake.python, made.folder / "train_model.py")
    await again.wait()
    fake.goes("fails at once")
    assert (await runs.train(tenant, made.run_id)).status == "trained", "it was finished: nothing is started"


async def test_what_is_missing_is_said_before_anything_is_made(
    runs: RunService, settings: Settings, samples: Path, tenant: str, other_tenant: str
) -> None:
    gone = replace(runs, python=settings.train_venv / "nowhere")
    with pytest.raises(NotReady, match=r"setup_training\.sh"):
        await gone.create(tenant, "sft", base_model=BASE)
    with pytest.raises(NotReady, match="has no rows"):
        await runs.create("nobody", "dpo", base_model=BASE)
    with pytest.raises(InvalidInput, match="dpo is trained on preferences"):
        await runs.create(tenant, "dpo", base_model=BASE, dataset="hypotheses")
    with pytest.raises(InvalidInput, match="batch_size"):
        await runs.create(tenant, "sft", base_model=BASE, options=TrainingOptions(batch_size=0))
    theirs = await trained(runs, other_tenant)
    with pytest.raises(NotFound):
        await runs.create(tenant, "grpo", base_model=BASE, reward_run=theirs.run_id)
    assert await runs.list(tenant) == []
    assert [path.name for path in settings.local_models_dir.iterdir()] == [theirs.run_id]


async def test_who_is_erased_before_the_script_begins_is_not_written_down(
    runs: RunService, samples: Path, tenant: str
) -> None:
    made = await runs.create(tenant, "sft", base_model=BASE)
    folder = runs.datasets_folder(tenant)
    key = runs.trainer.split_key()
    assert key is not None
    gone = next(n for n in range(40) if key.user(tenant, f"u{n}") in users_in(folder / "hypotheses_chat.jsonl"))
    assert sum(runs.trainer.erase_user(tenant, f"u{gone}", folder).values()) > 0
    done = await runs.train(tenant, made.run_id)
    assert key.user(tenant, f"u{gone}") not in (await row_of(runs, tenant, done.run_id)).user_keys
    assert key.user(tenant, f"u{gone}") not in (done.folder / "run_metadata.json").read_text()


async def test_a_run_shows_the_share_that_it_answers(runs: RunService, samples: Path, tenant: str) -> None:
    one, two = await trained(runs, tenant), await trained(runs, tenant)
    route = (await deploy(runs, tenant, one.run_id, 1.0)).route
    assert (await runs.get(tenant, one.run_id)).answers == 1.0
    async with runs.database.begin(tenant) as connection:
        made = Deployment(2, "promote", two.run_id, route.promoted(two.run_id, 0.25), "", runs.clock.now())
        await DeploymentStore().insert(connection, tenant, made)
    assert {run.run_id: run.answers for run in await runs.list(tenant)} == {one.run_id: 0.75, two.run_id: 0.25}


async def deploy(runs: RunService, tenant: str, run_id: str, share: float) -> Deployment:
    async with runs.database.begin(tenant) as connection:
        held = await DeploymentStore().latest(connection, tenant)
        assert held is None
        made = Deployment(1, "promote", run_id, Route().promoted(run_id, share), "", runs.clock.now())
        assert await DeploymentStore().insert(connection, tenant, made)
        return made


async def until(holds: Any, within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - it looks at files
            await asyncio.sleep(0.05)


def test_every_tenant_has_a_folder_of_its_own(tmp_path: Path) -> None:
    tenants = ["default", "acme", "Acme", "a/b", "..", "", "ünï", "_x", "x" * 200]
    folders = {datasets_folder(tmp_path, name) for name in tenants}
    assert len(folders) == len(tenants)
    assert datasets_folder(tmp_path, "default") == tmp_path / "datasets"
    assert all(each.parent == tmp_path / "datasets" for each in folders - {tmp_path / "datasets"})


def test_the_options_of_a_preparation_are_those_of_the_domain() -> None:
    from app.api.training_schemas import DatasetsIn

    assert DatasetsIn().model_dump(exclude={"dry_run"}) == vars(DatasetOptions())
