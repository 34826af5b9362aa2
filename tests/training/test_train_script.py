"""The generated script trains for real, on the CPU, with TRL: a tiny random model, a few hundred made-up rows.

It runs in venv-train, which ./setup_training.sh makes (TRAIN_VENV names another).
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.domain.instructions import hypotheses_instruction
from app.services.training.scripts import Method, TrainingOptions, generate_training_script

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("TRAIN_VENV", ROOT / "venv-train")) / "bin/python"
SMOLLM2 = Path(os.environ.get("TRAIN_TEST_MODEL", ROOT / "local-models/smollm2-135m-instruct"))
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
FRAMEWORKS = {"Python": "FastAPI", "Go": "Gin", "Ruby": "Rails", "Java": "Spring"}
INPUTS = ["build api", "write tests", "fix the bug", "deploy it", "make a plan", "speed it up", "add login"]

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Bench:
    """A folder with datasets and a tiny model; what is trained goes beside them."""

    folder: Path

    def write(self, name: str, method: Method, model: Path, **options: Any) -> Path:
        """The script that trains `folder/name`."""
        rows = "preferences" if method in {"dpo", "reward"} else "hypotheses_chat"
        defaults: dict[str, Any] = {"gradient_accumulation": 1, "gradient_checkpointing": False}
        return generate_training_script(
            dataset_path=self.folder / f"{rows}.jsonl",
            model_name=str(model),
            output_model_path=self.folder / name,
            method=method,
            options=TrainingOptions(**defaults | options),
            script_path=self.folder / f"{name}.py",
            code_version="test",
        )

    def train(self, name: str, method: Method, model: Path, **options: Any) -> dict[str, Any]:
        """Run it to its end; its metrics."""
        run(self.write(name, method, model, **options))
        return self.metrics(name)

    def metrics(self, name: str) -> dict[str, Any]:
        """What a run wrote."""
        return json.loads((self.folder / name / "metrics.json").read_text("utf8"))


def run(script: Path, *flags: str) -> str:
    """What the script says, when it succeeds."""
    done = subprocess.run([PYTHON, script, *flags], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def answer(readings: list[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": json.dumps({"hypotheses": readings}, separators=(",", ":"))}]


def reading(request: str, confidence: int) -> dict[str, Any]:
    return {"request": request, "question": f"Do you want: {request}?", "memories": [1], "confidence": confidence}


def make_rows(count: int, dice: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Chat rows with the two readings in any order, and preferences: users choose the reading with their own tools."""
    chats, preferences = [], []
    for number in range(count):
        language, text = dice.choice(list(FRAMEWORKS)), dice.choice(INPUTS)
        known = {"memories": [{"type": "PREFERENCE", "content": f"I work with {language}", "date": "2026-01-01"}]}
        row = {"prompt": hypotheses_instruction(text, known, 2).messages, "meta": {"user": number}}
        fitting = reading(f"Help me to {text} in {language} with {FRAMEWORKS[language]}", 70)
        general = reading(f"Tell me everything about how to {text}", 20)
        chosen, rejected = answer([fitting, general]), answer([general, fitting])
        chats.append({**row, "completion": dice.choice([chosen, rejected])})
        preferences.append({**row, "chosen": chosen, "rejected": rejected})
    return chats, preferences


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """240 rows to train on, 32 held out, and a model that has learnt nothing yet."""
    subprocess.run(["./setup_training.sh"], cwd=ROOT, check=True)
    folder, dice = tmp_path_factory.mktemp("training"), random.Random(7)
    for suffix, count in (("", 240), (".heldout", 32)):
        for name, rows in zip(("hypotheses_chat", "preferences"), make_rows(count, dice), strict=True):
            (folder / f"{name}{suffix}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    chats = [json.loads(line) for line in (folder / "hypotheses_chat.jsonl").read_text("utf8").splitlines()]
    spoken = [message["content"] for row in chats for message in row["prompt"] + row["completion"]]
    texts = "\n".join(" ".join(text.split()) for text in spoken)
    make = [PYTHON, Path(__file__).with_name("tiny_model.py"), folder / "tiny"]
    subprocess.run(make, input=texts, text=True, check=True, capture_output=True, env=ENVIRONMENT)
    return Bench(folder)


@pytest.fixture(scope="session")
def sft(bench: Bench) -> dict[str, Any]:
    """The metrics of a supervised run; the model is in `bench.folder / "sft"`."""
    return bench.train("sft", "sft", bench.folder / "tiny", learning_rate=5e-3, max_steps=200, evaluate_every=50)


def test_sft_makes_the_heldout_loss_fall(bench: Bench, sft: dict[str, Any]) -> None:
    made = bench.folder / "sft"
    metadata = json.loads((made / "run_metadata.json").read_text("utf8"))

    assert sft["after"]["loss"] < 0.1 * sft["before"]["loss"]
    assert sft["rows"] == {"train": 240, "heldout": 32, "too_long": 0}
    assert [line["step"] for line in sft["heldout"]] == [0, 50, 100, 150, 200]
    assert (made / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in (made / "adapter").iterdir()}
    assert (made / "config.json").is_file()
    assert (made / "model.safetensors").is_file()
    assert not (made / "checkpoints").exists(), "nothing of the rows stays behind"
    assert metadata["finished_at"]
    assert metadata["code_version"] == "test"
    assert len(metadata["data_sha256"]) == 2
    assert metadata["environment"]["trained_with"] == "TRL and PEFT"


def test_a_finished_run_is_not_trained_again(bench: Bench, sft: dict[str, Any]) -> None:
    done = subprocess.run(
        [PYTHON, bench.folder / "sft.py"], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )

    assert done.returncode == 1
    assert "finished" in done.stderr


def test_dpo_makes_the_heldout_preference_accuracy_rise(bench: Bench, sft: dict[str, Any]) -> None:
    metrics = bench.train("dpo", "dpo", bench.folder / "sft", learning_rate=1e-3, max_steps=20, evaluate_every=10)

    assert metrics["before"]["preference_accuracy"] < 0.85
    assert metrics["after"]["preference_accuracy"] > metrics["before"]["preference_accuracy"] + 0.1
    assert metrics["after"]["reward_accuracy"] > 0.9
    assert metrics["after"]["loss"] < metrics["before"]["loss"]


def test_a_reward_model_is_trained_and_judges_answers(bench: Bench, sft: dict[str, Any]) -> None:
    base = bench.folder / "sft"
    metrics = bench.train("reward", "reward", base, learning_rate=1e-3, max_steps=20, evaluate_every=10)
    judged = bench.train(
        "grpo_model",
        "grpo",
        base,
        grpo_rewards="model",
        reward_model_path=bench.folder / "reward",
        max_steps=1,
        generations=2,
        batch_size=8,
        max_answer=64,
        export_merged=False,
    )

    assert metrics["after"]["pair_accuracy"] > 0.9
    assert "rewards/is_json_object/mean" in judged["after"]


def test_grpo_is_rewarded_by_rules(bench: Bench, sft: dict[str, Any]) -> None:
    options = {"max_steps": 2, "evaluate_every": 2, "batch_size": 8, "max_answer": 128, "temperature": 0.5}
    metrics = bench.train("grpo", "grpo", bench.folder / "sft", learning_rate=1e-3, **options)

    assert metrics["steps"] == 2
    assert metrics["after"]["rewards/schema_validity/mean"] > 0.2
    assert metrics["after"]["rewards/selection_agreement/mean"] > 0.1


def test_a_killed_training_goes_on_and_ends_with_the_same_loss(bench: Bench) -> None:
    options = {"learning_rate": 2e-3, "max_steps": 40, "evaluate_every": 10, "batch_size": 2}
    undisturbed = bench.train("undisturbed", "sft", bench.folder / "tiny", **options)
    script = bench.write("killed", "sft", bench.folder / "tiny", **options)

    training = subprocess.Popen([PYTHON, script], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = bench.folder / "killed/checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/checkpoint-20/whole.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    training.send_signal(signal.SIGKILL)
    training.wait()
    torn = next(checkpoints.glob("*")) / "checkpoint-30"
    torn.mkdir(exist_ok=True)
    (torn / "whole.json").unlink(missing_ok=True)
    (torn / "trainer_state.json").write_text("{", "utf8")
    run(script)
    resumed = bench.metrics("killed")

    assert resumed["resumed_from_step"] == 20
    assert resumed["after"]["loss"] == pytest.approx(undisturbed["after"]["loss"], rel=0.01)
    assert resumed["train"][-1]["loss"] == pytest.approx(undisturbed["train"][-1]["loss"], rel=0.01)
    assert [line["step"] for line in resumed["train"]] == [line["step"] for line in undisturbed["train"]]


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="no local-models/smollm2-135m-instruct: scripts/unpack_smollm2.py")
def test_a_real_model_becomes_a_gguf_file(bench: Bench) -> None:
    script = generate_training_script(
        dataset_path=bench.folder / "preferences.heldout.jsonl",
        model_name=str(SMOLLM2),
        output_model_path=bench.folder / "smol",
        method="dpo",
        options=TrainingOptions(max_steps=1, batch_size=1, gradient_accumulation=1, export_gguf=True),
        script_path=bench.folder / "smol.py",
    )
    run(script)

    made = bench.folder / "smol/smol-f16.gguf"
    assert made.read_bytes()[:4] == b"GGUF"
    assert made.stat().st_size > 250_000_000


SIGNATURES = """
import ast, inspect, sys
from unsloth import FastLanguageModel
from unsloth.save import unsloth_save_pretrained_merged
known = {
    "from_pretrained": FastLanguageModel.from_pretrained,
    "get_peft_model": FastLanguageModel.get_peft_model,
    "save_pretrained_merged": unsloth_save_pretrained_merged,
}
checked = set()
tree = ast.parse(open(sys.argv[1], encoding="utf-8").read())
assigned = {node.targets[0].id: node.value for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
saving = assigned["saving"]
for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
    of_unsloth = getattr(call.func.value, "id", "") == "FastLanguageModel" or call.func.attr == "save_pretrained_merged"
    if of_unsloth:
        names = [word.arg for word in call.keywords if word.arg]
        names += [key.value for key in saving.keys] if call.func.attr == "save_pretrained_merged" else []
        taken = inspect.signature(known[call.func.attr]).parameters
        unknown = set(names) - set(taken)
        assert not unknown, (call.func.attr, unknown)
        checked.add(call.func.attr)
print(sorted(checked))
"""


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_unsloth_takes_the_arguments_the_script_gives_it(method: Method, tmp_path: Path) -> None:
    """The calls against unsloth's own signatures. This runs nothing of unsloth: that takes a GPU."""
    environment = {**ENVIRONMENT, "UNSLOTH_ALLOW_CPU": "1"}
    look = [PYTHON, "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('unsloth') is None)"]
    if subprocess.run(look, env=environment, check=False).returncode:
        pytest.skip("unsloth is not installed in the training environment")
    script = generate_training_script(
        dataset_path="rows.jsonl", model_name="m", output_model_path="o", method=method, script_path=tmp_path / "t.py"
    )

    done = subprocess.run(
        [PYTHON, "-c", SIGNATURES, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert "['from_pretrained', 'get_peft_model', 'save_pretrained_merged']" in done.stdout
