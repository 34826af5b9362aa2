"""The training script that is written: one clean Python file for every method, with the values that were asked for.

What it does when it runs is in tests/training; here its pure rules are taken out of it and tried.
"""

import ast
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from app.domain.errors import InvalidInput
from app.services.training import ModelTrainer, TrainingDataCollector
from app.services.training.scripts import Method, TrainingOptions, generate_training_script, literal, render

ROOT = Path(__file__).parents[2]
METHODS: tuple[Method, ...] = get_args(Method)
ODD = """./data/it's a "dataset" with \\ and\nä{{SEED}}☃/rows.jsonl"""


def write(folder: Path, name: str = "train_model.py", **given: Any) -> Path:
    """A script with the guide's own arguments where nothing else is given."""
    usual = {
        "dataset_path": "./data/training/datasets/hypotheses_chat.jsonl",
        "model_name": "unsloth/Qwen2.5-3B-Instruct",
        "output_model_path": "./local-models/qwen-finetuned",
        "script_path": folder / name,
    }
    return generate_training_script(**usual | given)


def constants(script: Path) -> dict[str, Any]:
    """The plain values of a script's constants; of a Path, its text."""
    found: dict[str, Any] = {}
    for node in ast.parse(script.read_text("utf8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
            try:
                found[node.targets[0].id] = ast.literal_eval(value)
            except ValueError:
                continue
    return found


def functions(script: Path, *imports: str) -> dict[str, Any]:
    """A script's functions without its imports, which need the training environment."""
    tree = ast.parse(script.read_text("utf8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.decorator_list]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    space: dict[str, Any] = {}
    exec("\n".join(imports), space)
    exec(compile(tree, str(script), "exec"), space)
    return space


def test_every_combination_is_clean_python(tmp_path: Path) -> None:
    paths = [
        "./rows.jsonl",
        ODD,
        f"/{'long/' * 20}a.jsonl",
        f"/{'long/' * 30}a.jsonl",
        f"/{'a b/' * 30}ü",
        "/数据/" * 18,
    ]
    choices = itertools.product(METHODS, ["rules", "model"], [True, False], paths)
    for number, (method, rewards, exports, dataset) in enumerate(choices):
        options = TrainingOptions(
            grpo_rewards=rewards,  # pyright: ignore[reportArgumentType]
            reward_model_path=f"local-models/{'reward/' * 20}",
            export_merged=exports,
            export_gguf=exports and method != "reward",
            learning_rate=1e-05,
            evaluate_every=25,
        )
        write(tmp_path, f"{number}.py", method=method, options=options, dataset_path=dataset, code_version="é" * 130)

    ruff = Path(sys.executable).with_name("ruff")
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(tmp_path)]
    linted = subprocess.run([ruff, "check", *config], capture_output=True, text=True, check=False)
    formatted = subprocess.run([ruff, "format", "--check", *config], capture_output=True, text=True, check=False)

    assert linted.returncode == 0, linted.stdout
    assert formatted.returncode == 0, formatted.stdout


@pytest.mark.parametrize("method", METHODS)
def test_a_script_opens_with_its_run_line_and_has_short_functions(method: Method, tmp_path: Path) -> None:
    text = write(tmp_path, "train_model.py", method=method).read_text("utf8")
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    longest = max(functions, key=lambda node: (node.end_lineno or 0) - node.lineno)

    assert "\n    venv-train/bin/python " in (ast.get_docstring(tree, clean=False) or "")
    assert all(ast.get_docstring(node) for node in functions)
    assert (longest.end_lineno or 0) - longest.lineno < 75, longest.name
    assert "#:" not in text
    assert "{{" not in text


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_unsloth_comes_before_what_it_changes(method: Method, tmp_path: Path) -> None:
    text = write(tmp_path, method=method).read_text("utf8")

    assert text.index("from unsloth") < text.index("from datasets") < text.index("from transformers")
    assert text.index("from unsloth") < text.index("from trl")


def test_the_script_says_what_was_asked_for(tmp_path: Path) -> None:
    options = TrainingOptions(learning_rate=3e-4, max_steps=7, seed=5, beta=0.2, export_gguf=True)
    script = write(tmp_path, method="dpo", options=options, dataset_path=ODD, code_version="1.2")
    found = constants(script)

    assert found["DATASET"] == str(Path(ODD))
    assert found["HELDOUT"] == str(Path(ODD)).replace("rows.jsonl", "rows.heldout.jsonl")
    assert found["BASE_MODEL"] == "unsloth/Qwen2.5-3B-Instruct"
    assert (found["LEARNING_RATE"], found["MAX_STEPS"], found["SEED"], found["BETA"]) == (3e-4, 7, 5, 0.2)
    assert (found["EXPORT_MERGED"], found["EXPORT_GGUF"], found["CODE_VERSION"]) == (True, True, "1.2")


def test_each_method_has_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    rates = {method: constants(write(tmp_path, method=method))["LEARNING_RATE"] for method in METHODS}

    assert rates == {"sft": 2e-4, "dpo": 5e-5, "reward": 1e-4, "grpo": 2e-5}


@pytest.mark.parametrize(
    ("method", "options", "field"),
    [
        ("ppo", {}, "method"),
        ("sft", {"epochs": 0}, "epochs"),
        ("sft", {"epochs": float("nan")}, "epochs"),
        ("sft", {"max_steps": 0}, "max_steps"),
        ("sft", {"learning_rate": 0.0}, "learning_rate"),
        ("sft", {"evaluate_every": 1.5}, "evaluate_every"),
        ("sft", {"lora_dropout": 1.0}, "lora_dropout"),
        ("reward", {"export_gguf": True}, "export_gguf"),
        ("grpo", {"grpo_rewards": "model"}, "reward_model_path"),
        ("grpo", {"batch_size": 6}, "batch_size"),
        ("grpo", {"max_answer": 4096}, "max_answer"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_written(
    method: Method, options: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as refused:
        write(tmp_path, method=method, options=TrainingOptions(**options))

    assert refused.value.field == field
    assert not list(tmp_path.iterdir())


def test_an_older_script_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "train_model.py").write_text("old", "utf8")

    script = write(tmp_path)

    assert script.read_text("utf8").startswith('"""Fine-tune')
    assert [path.name for path in tmp_path.iterdir()] == ["train_model.py"]


@pytest.mark.parametrize("value", ["plain", 'a "b"', "it's", 'it\'s "b"', "\\ \n \0 \x7f ☃ \u2028 \ud800", "{{SEED}}"])
def test_a_literal_means_the_value(value: str) -> None:
    assert ast.literal_eval(literal(value)) == value


def test_parts_of_a_template_are_kept_for_their_flags() -> None:
    template = "a\n#: one two\nb\n#: three\nc\n#: end\nd {{X}}"

    assert render(template, {"two"}, {"X": "y"}) == 'a\nb\nd "y"\n'
    assert render(template, {"three"}, {"X": 1}) == "a\nc\nd 1\n"


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, Callable[..., Any]]:
    """The rewards by rules of a GRPO script."""
    return functions(write(tmp_path, method="grpo"), "import json, re", "from collections import Counter")


def spoken(*requests: str, **changes: Any) -> str:
    one = {"question": "Do you want this?", "memories": [1], "confidence": 50}
    return json.dumps({"hypotheses": [{**one, "request": text, **changes} for text in requests]})


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (spoken("build it", "plan it"), 1.0),
        (spoken("build it"), 0.25),
        (spoken("build it", "plan it", confidence=130), 0.0),
        (spoken("build it", "plan it", more=1), 0.0),
        (spoken("build it", "plan it") + " Anything else?", 0.0),
        ("[]", 0.0),
        ('{"hypotheses": "none"}', 0.0),
        ('{"hypotheses": [1, null]}', 0.0),
        ("", 0.0),
    ],
)
def test_the_schema_reward_wants_the_whole_shape(rules: dict[str, Any], text: str, reward: float) -> None:
    right = spoken("build it", "plan it")

    assert rules["schema_validity"]([[{"role": "assistant", "content": text}]], answer=[right]) == [reward]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (spoken("Build it", "no"), 1.0),
        (spoken("no", "build it"), 0.0),
        (spoken("build"), 2 / 3),
        ("{", 0.0),
        ("[1]", 0.0),
    ],
)
def test_the_selection_reward_looks_at_the_first_reading(rules: dict[str, Any], text: str, reward: float) -> None:
    right = spoken("build it", "plan it")

    said = [[{"role": "assistant", "content": text}]]

    assert rules["selection_agreement"](said, answer=[right]) == [pytest.approx(reward)]


def test_a_checkpoint_cut_short_or_at_the_end_is_not_gone_on_from(tmp_path: Path) -> None:
    script = functions(write(tmp_path), "import json, shutil", "from pathlib import Path", "WHOLE = 'whole.json'")
    for step, noted in ((5, 4), (10, 4), (20, 9), (30, None), (40, 4)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_bytes(b"1234")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 40}), "utf8")
        if noted is not None:
            (folder / "whole.json").write_text(json.dumps({"weights": noted}), "utf8")

    assert script["newest_whole_checkpoint"](tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-5"]


def test_the_trainer_writes_its_script_beside_the_samples(tmp_path: Path) -> None:
    """As the guide calls it."""
    trainer = ModelTrainer(TrainingDataCollector(tmp_path, is_enabled=False))
    script = trainer.generate_training_script(
        dataset_path="./data/training/datasets/hypotheses_chat.jsonl",
        model_name="unsloth/Qwen2.5-3B-Instruct",
        output_model_path="./local-models/qwen-finetuned",
    )
    assert script == tmp_path / "train_model.py"
    assert "unsloth/Qwen2.5-3B-Instruct" in script.read_text("utf8")
