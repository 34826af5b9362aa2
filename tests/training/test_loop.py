"""The whole loop, for real: people choose, a model is trained on it, judged, served by vLLM, and taken back.

300 interactions through the HTTP API, datasets, TRL on the CPU with SmolLM2-135M, the judge, promotion into a running
vLLM, an answer by the adapter, rollback. A candidate that was trained on shuffled choices is planted, and refused.
"""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.running import RunningService
from tests.servers import open_folder
from tests.training.interactions import play
from tests.vllm_server import MODEL, ROOT, VllmServer, running_vllm, unpack_model

pytestmark = [pytest.mark.training, pytest.mark.timeout(3600)]

INTERACTIONS = 300
POLICY = """
rows: {least: 30, most: 40, answered: 1}
bootstrap: {confidence: 0.9}  # 300 interactions are few, and so are the people among them
gates:  # one answer, which may be of any length and form, tells of neither
  latency_ratio: null
  schema_validity: null
"""
RANK = 16
OPTIONS = {"batch-size": 2, "gradient-accumulation": 1, "max-length": 768, "lora-rank": RANK}
SWITCHES = ("--no-gradient-checkpointing", "--no-export-merged")


@dataclass
class Loop:
    """A service with its data, and the runs that were made of it."""

    service: RunningService
    settings: dict[str, str]
    good: str = ""
    bad: str = ""

    def command(self, *arguments: str, status: int = 0) -> Any:
        """What `embed-service train … --json` prints."""
        done = self.service.run_command("train", *arguments, "--json", check=False, timeout_s=3000)
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads(done.stdout)

    def prepare(self) -> dict[str, Any]:
        """Datasets with a quarter of the people held out; the summary."""
        tokenizer = str(ROOT / MODEL / "tokenizer.json")
        shares = "--heldout-share", "0.25", "--later-share", "0"
        return self.command("datasets", *shares, "--tokenizer", tokenizer)["summary"]

    def train(self, method: str, steps: int, learning_rate: float, *, rows: int = 8) -> dict[str, Any]:
        """A run on the datasets there are; so many held-out rows are evaluated before and after."""
        own = {"max-steps": steps, "evaluate-every": steps, "evaluate-rows": rows, "learning-rate": learning_rate}
        options = {**OPTIONS, **own}
        flags = [each for name, value in options.items() for each in (f"--{name}", str(value))]
        return self.command("run", "--method", method, *flags, *SWITCHES)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """300 interactions, and datasets of them."""
    subprocess.run(["./setup_training.sh"], cwd=ROOT, check=True)
    unpack_model()
    settings = {
        "ENABLE_TRAINING_DATA_COLLECTION": "true",
        "VLLM_MODEL_NAME": MODEL,
        "TRAIN_VENV": str(ROOT / os.environ.get("TRAIN_VENV", "venv-train")),
        "PROMOTION_POLICY": "promotion.yaml",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }
    with open_folder() as folder:
        (folder / "promotion.yaml").write_text(POLICY)
        (folder / "local-models").mkdir()
        (folder / MODEL).symlink_to(ROOT / MODEL)
        made = Loop(RunningService(folder, settings), settings)
        training = made.service.data_dir / "training"
        training.mkdir(parents=True)
        (training / "split.key").write_bytes(bytes(range(32)))  # always the same people are held out
        made.service.start()
        with made.service.client() as client:
            played = play(client, INTERACTIONS)
        assert played.interactions == INTERACTIONS
        made.service.stop()
        yield made


def test_choices_become_datasets(loop: Loop) -> None:
    counts = loop.command("stats")
    summary = loop.prepare()

    assert counts["hypotheses_count"] == INTERACTIONS
    assert summary["files"]["hypotheses_chat.jsonl"]["rows"] > 200
    assert summary["files"]["hypotheses_chat.heldout.jsonl"]["rows"] >= 30
    assert summary["users"]["heldout"] >= 10


def test_sft_makes_the_heldout_loss_fall(loop: Loop) -> None:
    run = loop.train("sft", 6, 1e-3)
    figures = run["metadata"]["metrics"]

    assert run["status"] == "trained"
    assert figures["after"]["loss"] < 0.8 * figures["before"]["loss"]


def test_dpo_makes_the_heldout_preference_accuracy_rise(loop: Loop) -> None:
    """This is the candidate that goes on: it learns what is chosen above what else was shown."""
    run = loop.train("dpo", 20, 5e-4)
    loop.good = run["run_id"]
    figures = run["metadata"]["metrics"]

    assert run["status"] == "trained"
    assert figures["after"]["preference_accuracy"] > figures["before"]["preference_accuracy"]
    assert figures["after"]["loss"] < figures["before"]["loss"]
    assert (Path(run["folder"]) / "adapter/adapter_model.safetensors").is_file()


def test_another_is_trained_on_shuffled_choices(loop: Loop) -> None:
    """The planted candidate: the same samples, but anything shown counts as chosen, except what was."""
    dice = random.Random(7)
    samples = loop.service.data_dir / "training/hypotheses_data.jsonl"
    true = samples.read_bytes()
    samples.write_bytes(b"".join(shuffled(line, dice) for line in true.splitlines()))
    loop.prepare()
    loop.bad = loop.train("dpo", 6, 5e-4, rows=1)["run_id"]
    samples.write_bytes(true)
    loop.prepare()

    assert loop.bad != loop.good


def shuffled(line: bytes, dice: random.Random) -> bytes:
    """A sample with another of the shown readings as the chosen one."""
    sample = orjson.loads(line)
    others = [one["id"] for one in sample["hypotheses"] if one["id"] != sample["selected_id"]]
    if sample["selected_id"] is not None and others:
        sample["selected_id"] = dice.choice(others)
    return orjson.dumps(sample) + b"\n"


@pytest.fixture(scope="module")
def served(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A real vLLM, and the service on it."""
    with running_vllm(tmp_path_factory.mktemp("vllm"), max_lora_rank=RANK) as server:
        loop.settings |= {"SLM_IMPL": "vllm", "VLLM_BASE_URL": server.base_url, "REQUEST_BUDGET_S": "300"}
        loop.service = RunningService(loop.service.folder, loop.settings)
        loop.service.start()
        yield server
        loop.service.stop()


def test_the_judge_finds_it_better_than_the_base_model(loop: Loop, served: VllmServer) -> None:
    run = loop.command("judge", loop.good)
    judgement = run["judgement"]
    figure = judgement["figures"]["mrr"]
    report = (Path(run["folder"]) / "judgement/report.md").read_text("utf8")

    assert run["status"] == "accepted", judgement["refusals"]
    assert judgement["against"] is None
    assert judgement["rows"] >= 30
    assert figure["difference"] > 0
    assert "loss" in report
    keep(loop, "judged_good", run)


def test_it_is_served_and_answers(loop: Loop, served: VllmServer) -> None:
    """Promoted for everybody without a restart; the answer says who made it. So small a model often says nothing of
    use, and then its base model answers."""
    with loop.service.client(timeout_s=300) as client:
        before = ask(client)
        promoted = client.post(f"/v1/training/runs/{loop.good}/promote", json={"share": 1})
        assert promoted.status_code == 200, promoted.text
        answers = [ask(client) for _ in range(6)]

    assert (before["model"], before["adapter"]) == (MODEL, None)
    assert (loop.good, loop.good) in {(answer["model"], answer["adapter"]) for answer in answers}


def test_the_planted_one_is_refused_and_said_by_how_much(loop: Loop, served: VllmServer) -> None:
    run = loop.command("judge", loop.bad, status=1)
    judgement = run["judgement"]
    figure = judgement["figures"]["mrr"]

    assert run["status"] == "refused"
    assert judgement["against"] == loop.good
    assert figure["difference"] < -0.05
    assert any(reason.startswith("mrr ") and "worse by" in reason for reason in judgement["refusals"])
    with loop.service.client() as client:
        refused = client.post(f"/v1/training/runs/{loop.bad}/promote", json={"share": 1})
    assert refused.status_code == 409
    assert "mrr" in refused.json()["detail"]
    keep(loop, "judged_bad", run)


def test_a_rollback_takes_effect_within_a_second(loop: Loop, served: VllmServer) -> None:
    with loop.service.client(timeout_s=300) as client:
        started = time.monotonic()
        back = client.post(f"/v1/training/runs/{loop.good}/rollback", json={"reason": "tried"})
        seconds = time.monotonic() - started
        answer = ask(client)

    assert back.status_code == 200, back.text
    assert seconds < 1
    assert answer["adapter"] is None
    assert answer["model"] == MODEL


def ask(client: Any) -> dict[str, Any]:
    """An input of somebody new; where not even the base model says anything of use, it is asked again."""
    for _ in range(6):
        said = {"user_id": f"visitor-{time.monotonic_ns()}", "input_text": "write a poem about the sea", "count": 1}
        answer = client.post("/v1/hypothesize", json=said).raise_for_status().json()
        if answer["source"] == "vllm":
            return answer
    raise AssertionError("the model gave no answer of use in six tries")


def keep(loop: Loop, name: str, document: Any) -> None:
    """Leave a judgement and its report where LOOP_RESULTS says, for the page of results."""
    folder = os.environ.get("LOOP_RESULTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.json").write_text(json.dumps(document, indent=2))
        shutil.copytree(Path(document["folder"]) / "judgement", Path(folder) / name, dirs_exist_ok=True)
