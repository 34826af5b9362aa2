"""A user leaves samples, datasets, checkpoints and the registry; the report names what was trained on them."""

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from app.domain import training
from app.domain.datasets import DatasetOptions, SplitKey
from app.domain.errors import NotReady
from app.domain.training import FILES
from app.services.consent import ConsentService
from app.services.training.erasure import Erasure
from app.services.training.run_files import RunFolder
from app.services.training.runs import RunService
from app.services.training.trainer import KEY_BYTES
from app.services.transfer import TransferService
from app.settings import Settings
from app.store.engine import Database
from app.store.users import UserStore
from app.wiring import build_graphs, build_ingest
from app.wiring_training import build_collector, build_erasure, build_runs, build_trainer
from tests.fake_training import FakeTraining
from tests.fakes import FakeEmbedder
from tests.integration.test_dataset_files import choice, write
from tests.integration.test_runs import BASE, row_of, trained, until

WORD = "xyzzyquokka"
USER = "zanzibar@mail.example"


class House:
    """The services that erase and train, on one folder."""

    def __init__(self, folder: Path, database: Database, tenant: str) -> None:
        self.tenant = tenant
        self.fake = FakeTraining(folder / "venv")
        self.settings = Settings(
            _env_file=None, data_dir=folder / "data", local_models_dir=folder / "models", train_venv=self.fake.venv
        )
        self.folder = folder
        self.database = database
        trainer = build_trainer(build_collector(self.settings))
        self.runs: RunService = build_runs(self.settings, database, trainer)
        erasure = build_erasure(self.settings, trainer)
        ingest = build_ingest(database)
        self.transfer = TransferService(database, FakeEmbedder(), erasure, UserStore(), build_graphs(database), ingest)
        self.consent = ConsentService(database, UserStore(), erasure, self.runs.clock)

    async def meet(self, tenant: str, user: str, numbers: range, said: str = "") -> None:
        """A user with a row in the database and choices among the samples."""
        async with self.database.begin(tenant) as connection:
            await UserStore().ensure(connection, tenant, user, self.runs.clock.now())
        memories = {"memories": [{"type": "GOAL", "content": f"I want a {said or user} soon."}]}
        samples = (choice(n, user, tenant_id=tenant, context=memories) for n in numbers)
        write(self.settings.training_dir, training.HYPOTHESES_FILE, *samples)

    def key_of(self, tenant: str, user: str) -> str:
        key = self.runs.trainer.split_key()
        assert key is not None
        return key.user(tenant, user)

    async def places_that_hold(self, *needles: str) -> set[str]:
        """Files under the data and model folders, and tables of this test's tenants, in which a needle stands."""
        files = {
            str(path.relative_to(self.folder))
            for place in ("data", "models")
            for path in (self.folder / place).rglob("*")
            if path.is_file() and any(needle.encode() in path.read_bytes() for needle in needles)
        }
        connection = await asyncpg.connect(self.database.server.url.replace("+asyncpg", ""))
        try:
            patterns = [f"%{needle}%" for needle in needles]
            for table in ("training_runs", "users", "deployments"):
                query = f'SELECT bool_or(t::text LIKE ANY($1)) FROM "{table}" t WHERE starts_with(tenant_id, $2)'
                if await connection.fetchval(query, patterns, self.tenant):
                    files.add(table)
        finally:
            await connection.close()
        return files


@pytest.fixture
async def house(tmp_path: Path, database: Database, tenant: str) -> House:
    """Twenty users and USER, who has said WORD and is not held out."""
    made = House(tmp_path, database, tenant)
    made.settings.training_dir.mkdir(parents=True)
    keys = (SplitKey(bytes([number]) * KEY_BYTES) for number in range(256))
    key = next(key for key in keys if not key.is_heldout(key.user(tenant, USER), DatasetOptions().heldout_share))
    (made.settings.training_dir / "split.key").write_bytes(key.secret)
    for number in range(20):
        await made.meet(tenant, f"u{number}", range(number * 4, number * 4 + 4))
    await made.meet(tenant, USER, range(100, 110), WORD)
    return made


async def test_an_erased_user_is_in_no_file_and_the_report_names_the_adapters(house: House, tenant: str) -> None:
    """One run trained, one failed amid its work, one of a script by hand: the text and the key of the user stand in
    samples, datasets, checkpoints and metadata before, and nowhere after."""
    done = await trained(house.runs, tenant)
    house.fake.goes("fails")
    broken = await trained(house.runs, tenant)
    by_hand = house.settings.local_models_dir / "by-hand"
    made = house.runs.trainer.generate_training_script(
        house.runs.datasets_folder(tenant) / "hypotheses_chat.jsonl", BASE, by_hand
    )
    by_hand.mkdir()
    process = await asyncio.create_subprocess_exec(house.fake.python, made)
    await process.wait()
    key = house.key_of(tenant, USER)
    held = await house.places_that_hold(USER, WORD, key)
    assert {"training_runs", "users", "data/training/hypotheses_data.jsonl"} < held
    assert f"models/{done.run_id}/run_metadata.json" in held
    for name in (broken.run_id, "by-hand"):
        assert f"models/{name}/checkpoints/0123456789ab/rows/0.arrow" in held
    datasets = f"data/training/datasets/{tenant}"
    before = json.loads((house.folder / datasets / "dataset_summary.json").read_bytes())

    left = await house.transfer.erase(tenant, USER)

    assert await house.places_that_hold(USER, WORD, key) == set()
    assert left.trained_adapters == tuple(sorted((done.run_id, broken.run_id)))
    assert (left.unsure_adapters, left.has_deleted_datasets) == ((), False)
    after = json.loads((house.folder / datasets / "dataset_summary.json").read_bytes())
    assert left.erased["hypotheses_data.jsonl"] == 10
    for name, figures in before["files"].items():
        assert left.erased[f"datasets/{name}"] == figures["rows"] - after["files"][name]["rows"]
    assert left.erased["datasets/hypotheses_chat.jsonl"] > 0
    assert after["erasures"] == 1
    row = await row_of(house.runs, tenant, done.run_id)
    assert row.erased_users == 1
    assert len(row.user_keys) > 0, "the others' keys stay"
    assert json.loads((done.folder / "run_metadata.json").read_bytes())["users"] == row.user_keys


async def test_opting_out_does_the_same_and_keeps_the_user(house: House, tenant: str) -> None:
    done = await trained(house.runs, tenant)
    key = house.key_of(tenant, USER)
    is_kept, left = await house.consent.set(tenant, USER, has_consent=False)
    assert (is_kept, left.trained_adapters) == (False, (done.run_id,))
    assert left.erased["datasets/hypotheses_chat.jsonl"] > 0
    assert await house.places_that_hold(USER, WORD, key) == {"users"}
    again = (await house.consent.set(tenant, USER, has_consent=False))[1]
    assert (sum(again.erased.values()), again.trained_adapters) == (0, ())


async def test_another_tenant_s_user_of_the_same_name_stays(house: House, tenant: str, other_tenant: str) -> None:
    await house.meet(other_tenant, USER, range(200, 210), "xyzzywombat")
    done, theirs = await trained(house.runs, tenant), await trained(house.runs, other_tenant)
    key = house.key_of(other_tenant, USER)
    held = await house.places_that_hold("xyzzywombat", key)
    left = await house.transfer.erase(tenant, USER)
    assert left.trained_adapters == (done.run_id,)
    assert await house.places_that_hold("xyzzywombat", key) == held
    assert f"models/{theirs.run_id}/run_metadata.json" in held


async def test_datasets_of_all_tenants_lose_the_user_too(house: House, tenant: str, other_tenant: str) -> None:
    """As the library's own default makes them: every tenant's rows in the folder of `default`."""
    await house.meet(other_tenant, USER, range(200, 210), "xyzzywombat")
    await house.runs.trainer.prepare_training_dataset(house.runs.datasets_folder("default"))
    left = await house.transfer.erase(tenant, USER)
    assert left.erased["datasets/hypotheses_chat.jsonl"] > 0
    assert await house.places_that_hold(WORD, house.key_of(tenant, USER)) == set()
    assert await house.places_that_hold("xyzzywombat") != set()


async def test_a_training_at_work_loses_the_rows_however_it_ends(house: House, tenant: str) -> None:
    """Erased while the script works: its rows go with the script, even where it is killed."""
    house.fake.goes("hangs")
    made = await house.runs.create(tenant, "sft", base_model=BASE)
    work = asyncio.create_task(house.runs.train(tenant, made.run_id))
    await until(lambda: RunFolder(made.folder).progress() is not None)
    left = await house.transfer.erase(tenant, USER)
    assert left.trained_adapters == (made.run_id,)
    assert await house.places_that_hold(WORD) != set(), "the script holds them"
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await house.places_that_hold(USER, WORD, house.key_of(tenant, USER)) == set()
    house.fake.goes("well")
    again = await house.runs.train(tenant, made.run_id)
    assert again.metadata["metrics"]["resumed_from_step"] is None
    assert house.key_of(tenant, USER) not in (again.folder / "run_metadata.json").read_text()


async def test_a_script_killed_without_anybody_watching_loses_the_rows_at_the_next_start(
    house: House, tenant: str
) -> None:
    made = await house.runs.create(tenant, "sft", base_model=BASE)
    house.fake.goes("hangs")
    orphan = await asyncio.create_subprocess_exec(house.fake.python, made.folder / "train_model.py")
    await until(lambda: RunFolder(made.folder).progress() is not None)
    await house.transfer.erase(tenant, USER)
    house.transfer.training.finish()
    assert await house.places_that_hold(WORD) != set(), "the script holds them"
    orphan.kill()
    await orphan.wait()
    house.transfer.training.finish()
    assert await house.places_that_hold(USER, WORD, house.key_of(tenant, USER)) == set()


async def test_with_a_lost_key_datasets_go_whole_and_no_adapter_is_called_clean(house: House, tenant: str) -> None:
    done = await trained(house.runs, tenant)
    (house.settings.training_dir / "split.key").unlink()
    left = await house.transfer.erase(tenant, USER)
    assert left.has_deleted_datasets
    assert (left.trained_adapters, left.unsure_adapters) == ((), (done.run_id,))
    assert left.erased["datasets/hypotheses_chat.jsonl"] > 0
    assert await house.places_that_hold(USER, WORD) == set()
    assert list(house.runs.datasets_folder(tenant).glob("*.json*")) == []
    assert (await trained(house.runs, tenant)).status == "trained", "they can be prepared again"


async def test_an_erasure_that_was_broken_off_can_be_called_again(
    house: House, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are gone, the rows are not: the second call finds the run and everything else."""
    done = await trained(house.runs, tenant)

    async def killed(*_: object) -> None:
        raise NotReady("the power went out")

    with monkeypatch.context() as patched:
        patched.setattr(UserStore, "erase", killed)
        with pytest.raises(NotReady):
            await house.transfer.erase(tenant, USER)
    assert await house.places_that_hold(WORD) == set()
    left = await house.transfer.erase(tenant, USER)
    assert left.trained_adapters == (done.run_id,)
    assert await house.places_that_hold(USER, WORD, house.key_of(tenant, USER)) == set()


async def test_without_samples_and_runs_there_is_nothing_to_tell(house: House, tenant: str) -> None:
    assert (await house.consent.set(tenant, "stranger", has_consent=False))[1] == Erasure(dict.fromkeys(FILES, 0))
