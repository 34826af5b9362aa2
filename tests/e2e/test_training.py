"""The loop over HTTP and on the command line: samples, datasets, a script, a run, its verdict, and erasure."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.datasets import SplitKey
from app.domain.runs import is_run_id
from tests.e2e.running import COMMAND, Key, RunningService
from tests.fake_training import FakeTraining
from tests.integration.test_dataset_files import KEY, choice, write
from tests.servers import open_folder

pytestmark = pytest.mark.slow

USER = "zanzibar"
TENANT = "acme"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as opened:
        yield opened


@pytest.fixture(scope="module")
def fake(folder: Path) -> FakeTraining:
    return FakeTraining(folder / "venv")


@pytest.fixture(scope="module")
def service(folder: Path, fake: FakeTraining) -> Iterator[RunningService]:
    """A running service with samples of twenty users of TENANT, and of USER, whom it knows."""
    training = folder / "data" / "training"
    training.mkdir(parents=True)
    (training / "split.key").write_bytes(KEY)
    samples = (choice(number, f"u{number % 20}", tenant_id=TENANT) for number in range(80))
    write(training, "hypotheses_data.jsonl", *samples)
    write(training, "hypotheses_data.jsonl", *(choice(n, USER, tenant_id=TENANT) for n in range(100, 110)))
    named = RunningService(folder, {"TRAIN_VENV": str(fake.venv), "LOCAL_MODELS_DIR": str(folder / "models")})
    named.start()
    yield named
    named.stop()


@pytest.fixture(scope="module")
def key(service: RunningService) -> Key:
    return service.create_key(TENANT)


@pytest.fixture(scope="module")
def http(service: RunningService, key: Key) -> Iterator[httpx.Client]:
    with service.client(key) as client:
        assert client.put(f"/v1/users/{USER}/consent", json={"training": True}).status_code == 200
        yield client


def ask(service: RunningService, *arguments: str, status: int = 0) -> Any:
    """The one JSON document that `train …` prints for TENANT."""
    done = service.run_command("train", *arguments, "--tenant", TENANT, "--json", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def refused(service: RunningService, *arguments: str) -> str:
    """The one line on stderr of a command that fails."""
    done = service.run_command("train", *arguments, "--tenant", TENANT, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def run(service: RunningService, http: httpx.Client) -> dict[str, Any]:
    """A run that was trained."""
    prepared = ask(service, "datasets", "--heldout-share", "0.2")
    assert prepared["summary"]["options"]["heldout_share"] == 0.2
    return ask(service, "run", "--method", "sft", "--max-steps", "3", "--learning-rate", "0.001")


def test_datasets_are_prepared_over_http(service: RunningService, http: httpx.Client) -> None:
    """A trial writes nothing; a preparation is there for `GET` afterwards; another tenant has none of it."""
    trial = http.post("/v1/training/datasets", json={"dry_run": True})
    assert (trial.status_code, trial.json()["status"]) == (200, "prepared")
    assert trial.json()["summary"]["files"]["hypotheses_chat.jsonl"]["rows"] > 0
    assert not (service.data_dir / "training" / "datasets").exists()
    made = http.post("/v1/training/datasets", json={"heldout_share": 0.3, "max_per_user": 3})
    assert made.status_code == 200
    assert made.json()["summary"]["options"] == {
        "heldout_share": 0.3, "later_share": 0.1, "max_tokens": 2048, "max_per_user": 3, "near_duplicate": 0.8,
    }  # fmt: skip
    assert http.get("/v1/training/datasets").json() == made.json()
    assert "inputs" not in made.json()["summary"], "they tell how many files all tenants fill"
    assert (service.data_dir / "training" / "datasets" / TENANT / "hypotheses_chat.jsonl").exists()
    with service.client(service.create_key("other")) as other:
        assert other.get("/v1/training/datasets").json() == {"status": "none", "summary": None}


def test_a_preparation_that_takes_longer_is_answered_at_once(http: httpx.Client) -> None:
    """202 within the caller's time and for whoever asks meanwhile; then it is done."""
    asked = time.monotonic()
    slow = http.post("/v1/training/datasets", json={}, headers={"X-Request-Timeout": "0.2"})
    assert (slow.status_code, slow.json()["status"]) == (202, "preparing")
    assert time.monotonic() - asked < 2
    again = http.post("/v1/training/datasets", json={})
    assert (again.status_code, again.json()["status"]) == (202, "preparing")
    assert http.get("/v1/training/datasets").json()["status"] == "preparing"
    while http.get("/v1/training/datasets").json()["status"] == "preparing":
        assert time.monotonic() - asked < 60
        time.sleep(0.2)
    done = http.get("/v1/training/datasets").json()
    assert (done["status"], done["summary"]["options"]["heldout_share"]) == ("prepared", 0.1)


def test_a_script_is_written_and_shown(service: RunningService, http: httpx.Client) -> None:
    body = {"method": "dpo", "model": "org/tiny", "output": "mine", "options": {"learning_rate": 0.125}}
    made = http.post("/v1/training/scripts", json=body).json()
    assert Path(made["path"]).read_text() == made["script"]
    assert Path(made["path"]).is_relative_to(service.data_dir / "training" / "datasets" / TENANT)
    for line in ("LEARNING_RATE = 0.125", 'METHOD = "dpo"', 'BASE_MODEL = "org/tiny"'):
        assert line in made["script"]
    assert str(service.folder / "models" / "mine") in made["script"]
    for wrong in ({"model": "../x"}, {"model": "/etc/passwd"}, {"output": "a/b"}, {"output": ".."}, {"dataset": "x"}):
        assert http.post("/v1/training/scripts", json=wrong).status_code == 422, wrong
    wrong = {"method": "dpo", "dataset": "rerank"}
    assert "preferences" in http.post("/v1/training/scripts", json=wrong).json()["detail"]


def test_a_run_is_shown_alike_by_command_and_http(
    service: RunningService, http: httpx.Client, run: dict[str, Any]
) -> None:
    assert is_run_id(run["run_id"])
    assert (run["status"], run["metadata"]["hyper_parameters"]["max_steps"]) == ("trained", 3)
    assert ask(service, "show", run["run_id"]) == run
    assert ask(service, "list")[0] == run
    shown = http.get(f"/v1/training/runs/{run['run_id']}").json()
    assert shown["metadata"] == run["metadata"]
    assert "folder" not in shown
    assert http.get("/v1/training/runs").json()["runs"][0] == shown
    assert run["run_id"] in service.run_command("train", "list", "--tenant", TENANT).stdout
    with service.client(service.create_key("other")) as other:
        assert other.get(f"/v1/training/runs/{run['run_id']}").status_code == 404


def test_what_was_not_judged_does_not_serve(service: RunningService, http: httpx.Client, run: dict[str, Any]) -> None:
    """Without a vLLM nothing is judged, promoted or rolled back; each says what to do, and nobody's answers change."""
    assert "SLM_IMPL=vllm" in refused(service, "judge", run["run_id"])
    assert "SLM_IMPL=vllm" in refused(service, "promote", run["run_id"])
    assert "serves nobody" in refused(service, "rollback", run["run_id"])
    assert "no such training run" in refused(service, "show", "sft-20260131t120000-0123456789")
    assert http.post(f"/v1/training/runs/{run['run_id']}/promote", json={}).status_code == 409
    assert http.post(f"/v1/training/runs/{run['run_id']}/rollback", json={}).status_code == 422
    assert http.get("/v1/training/deployments").json()["history"] == []
    now = ask(service, "status")
    assert (now["serving"], now["canary"], now["chance_of_drop"]) == (None, None, 1.0)
    assert "the base model" in service.run_command("train", "status", "--tenant", TENANT).stdout


def test_a_failed_training_is_one_line_with_the_place_of_the_log(
    service: RunningService, fake: FakeTraining, run: dict[str, Any]
) -> None:
    fake.goes("fails")
    try:
        done = service.run_command("train", "run", "--tenant", TENANT, "--json", check=False)
    finally:
        fake.goes("well")
    failed = json.loads(done.stdout)
    assert (done.returncode, failed["status"]) == (1, "failed")
    assert f"error: {failed['run_id']} failed: CUDA is out of memory, or so." in done.stderr
    assert f"{failed['folder']}/training.log" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_is_ended_goes_on_with_resume(
    service: RunningService, fake: FakeTraining, run: dict[str, Any], how: signal.Signals
) -> None:
    """Ctrl-C, `kill` and `kill -9` of the command: the row says `training`, and resuming ends it."""
    fake.goes("hangs")
    command = [COMMAND, "train", "run", "--tenant", TENANT]
    process = subprocess.Popen(
        command, cwd=service.folder, env=service.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    run_id = ""
    try:
        deadline = time.monotonic() + 60
        while not run_id or not (service.folder / "models" / run_id / "checkpoints" / "progress.jsonl").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            newest = ask(service, "list")[0]
            run_id = newest["run_id"] if newest["status"] == "training" else ""
        script = orphan_of(service.folder / "models" / run_id)
        process.send_signal(how)
        process.wait(60)
    finally:
        fake.goes("well")
    if how == signal.SIGKILL:
        os.kill(script, signal.SIGKILL)
    else:
        assert process.returncode == 130
        with pytest.raises(ProcessLookupError):
            os.kill(script, 0)
    assert ask(service, "show", run_id)["status"] == "training"
    assert ask(service, "run", "--resume", run_id)["metadata"]["metrics"]["resumed_from_step"] == 2


def orphan_of(folder: Path) -> int:
    """The process that runs the script of a folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes().split(b"\0")
            if str(folder / "train_model.py").encode() in arguments:
                return int(path.parent.name)
    raise AssertionError("no script is at work")


def test_erasure_names_the_adapters_beside_the_running_service(
    service: RunningService, http: httpx.Client, run: dict[str, Any]
) -> None:
    """Opting out over HTTP names all runs; erasing on the command line afterwards finds nothing left but the row."""
    left = http.put(f"/v1/users/{USER}/consent", json={"training": False}).json()
    assert run["run_id"] in left["trained_adapters"]
    assert left["erased"]["hypotheses_data.jsonl"] == 10
    assert left["erased"]["datasets/hypotheses_chat.jsonl"] > 0
    document = json.loads(service.run_command("users", "erase", USER, "--tenant", TENANT, "--yes", "--json").stdout)
    assert (document["erased"]["users"], document["trained_adapters"]) == (1, [])
    assert ask(service, "show", run["run_id"])["erased_users"] == 1
    assert http.delete("/v1/users/u1").status_code == 404, "only users with a row are known"


def test_the_command_says_what_to_do_about_trained_adapters(
    service: RunningService, http: httpx.Client, run: dict[str, Any]
) -> None:
    key = SplitKey(KEY)
    user = next(f"u{n}" for n in range(20) if not key.is_heldout(key.user(TENANT, f"u{n}"), 0.2))
    assert http.put(f"/v1/users/{user}/consent", json={"training": True}).status_code == 200
    said = service.run_command("users", "erase", user, "--tenant", TENANT, "--yes").stdout
    assert f"{run['run_id']} was trained on the user's samples." in said
    assert "embed-service train run" in said
