"""Real weights: they talk and embed as the libraries do, from one copy in memory, and damaged ones are one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving.runtime
from serving.errors import InvalidInput, LLMRuntimeError
from serving.llm2vec.manifest import TRAINED, Artifacts, Embedding, read_manifest
from serving.llm2vec.settings import load_runtime_settings
from serving.runtime import UnifiedLLMRuntime
from tests.serving.llm2vec.checkpoints import ROOT, WIDTH, change_manifest

pytestmark = pytest.mark.fine_tuning

TEXTS = ["where is the lamp of the table", "the boat lies beside the river " * 3, "a violin", "?"]
HELLO = [{"role": "user", "content": "where is the lamp?"}]


def open_runtime(folder: Path, **model: Any) -> UnifiedLLMRuntime:
    return UnifiedLLMRuntime(folder, load_runtime_settings(device="cpu", threads=1, **model))


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def hidden_states(folder: Path, text: str, **config: Any) -> Any:
    """The last hidden state of a text by transformers alone, shape (tokens, width)."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    made = AutoConfig.from_pretrained(folder)
    made.update(config)
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder, config=made, dtype="float32")(ids).last_hidden_state[0].numpy()


def test_a_vector_is_the_mean_of_the_last_hidden_state(tiny_folder: Path) -> None:
    runtime = open_runtime(tiny_folder)

    vectors = runtime.embed(TEXTS, normalise=False)

    means = [hidden_states(tiny_folder / "merged", text).mean(axis=0) for text in TEXTS]
    np.testing.assert_allclose(vectors, np.stack(means), atol=1e-5)
    runtime.close()


def test_bidirectional_vectors_are_those_of_a_model_that_is_not_causal(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_folder, tmp_path)
    causal = open_runtime(folder)
    one_way, said = causal.embed(TEXTS), causal.generate(HELLO, temperature=0, max_new_tokens=8).text
    causal.close()
    change_manifest(folder, embedding=asdict(Embedding(dimension=WIDTH, max_length=64, attention="bidirectional")))
    runtime = open_runtime(folder)

    vectors = runtime.embed(TEXTS, normalise=False)

    means = [hidden_states(folder / "merged", text, is_causal=False).mean(axis=0) for text in TEXTS]
    np.testing.assert_allclose(vectors, np.stack(means), atol=1e-5)
    assert np.abs(runtime.embed(TEXTS) - one_way).max() > 1e-2
    assert runtime.generate(HELLO, temperature=0, max_new_tokens=8).text == said
    runtime.close()


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_text_without_tokens_is_zeros_and_moves_nobody(tiny_folder: Path, tmp_path: Path, attention: Any) -> None:
    folder = copy_of(tiny_folder, tmp_path)
    change_manifest(folder, embedding=asdict(Embedding(dimension=WIDTH, max_length=64, attention=attention)))
    runtime = open_runtime(folder)

    vectors = runtime.embed(["", "?", ""])

    assert not vectors[[0, 2]].any()
    np.testing.assert_allclose(vectors[1:2], runtime.embed(["?"]), atol=1e-5)
    runtime.close()


def test_merged_weights_and_adapters_give_the_same_vectors_and_answers(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_folder, tmp_path)
    found: list[Any] = []
    for artifacts in (Artifacts(merged="merged"), Artifacts(adapters="adapters"), Artifacts(merged="base")):
        replace(read_manifest(folder), artifacts=artifacts).write(folder / TRAINED)
        runtime = open_runtime(folder)
        found.append((runtime.embed(TEXTS), runtime.generate(HELLO, temperature=0, max_new_tokens=8).text))
        runtime.close()

    (merged, said), (adapted, also_said), (bare, _) = found
    np.testing.assert_allclose(merged, adapted, atol=1e-3)
    assert said == also_said
    assert np.abs(merged - bare).max() > 1e-2


def test_the_most_probable_answer_is_that_of_transformers(smollm2_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    runtime = open_runtime(smollm2_folder)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder / "merged")
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder / "merged", dtype=torch.float32)
    ids = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]

    found = runtime.generate(HELLO, temperature=0, max_new_tokens=12)

    assert found.text == tokenizer.decode(written, skip_special_tokens=True)
    assert found.prompt_tokens == ids["input_ids"].shape[1]
    runtime.close()


MEMORY = """
import sys
from pathlib import Path
import psutil
import peft, sentence_transformers, transformers
from serving.llm2vec.settings import load_runtime_settings
from serving.runtime import UnifiedLLMRuntime

first, second = (UnifiedLLMRuntime(Path(sys.argv[1]), load_runtime_settings(device="cpu", threads=1)) for _ in "12")
held = [psutil.Process().memory_full_info().uss]
for runtime in (first, second):
    runtime.generate("where is the lamp", max_new_tokens=4)
    runtime.embed(["a violin"])
    held.append(psutil.Process().memory_full_info().uss)
print(*held)
"""


def test_chat_and_embeddings_of_two_runtimes_take_one_copy_of_the_weights(smollm2_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, smollm2_folder], cwd=ROOT, capture_output=True, text=True, check=True
    )

    before, first, second = map(int, done.stdout.splitlines()[-1].split())
    weights = 4 * 134_515_008
    assert first - before > 0.9 * weights
    assert second - first < 0.1 * weights


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "size": {"type": "integer", "maximum": 9, "minimum": 0}},
    "required": ["colour", "size"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_keeps_to_a_schema(tiny_folder: Path, temperature: float) -> None:
    pytest.importorskip("llguidance")
    runtime = open_runtime(tiny_folder)

    found = runtime.generate(HELLO, schema=SCHEMA, temperature=temperature, seed=5, max_new_tokens=100)

    said = json.loads(found.text)
    assert found.finish_reason == "stop"
    assert said["colour"] in {"red", "green"}
    assert said["size"] in range(10)
    with pytest.raises(InvalidInput, match="cannot be held to"):
        runtime.generate(HELLO, schema={"type": "walrus"})
    runtime.close()


def test_bfloat16_runs_alone_and_stays_close(smollm2_folder: Path) -> None:
    exact, half = open_runtime(smollm2_folder), open_runtime(smollm2_folder, dtype="bfloat16")
    vectors = exact.embed(TEXTS)

    rounded = half.embed(TEXTS)

    assert (exact.info.is_batchable, half.info.is_batchable) == (True, False)
    assert (vectors * rounded).sum(axis=1).min() > 0.999
    np.testing.assert_array_equal(rounded, np.concatenate([half.embed([text]) for text in TEXTS]))
    exact.close()
    half.close()


def _without_a_tensor(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = folder / "merged" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})


def _with_numbers_that_are_none(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = folder / "merged" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][:] = np.nan
    save_file(tensors, file, metadata={"format": "pt"})


def _truncated(folder: Path) -> None:
    file = folder / "merged" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _without_weights(folder: Path) -> None:
    (folder / "merged" / "model.safetensors").unlink()


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")


def _without_merged(folder: Path) -> None:
    shutil.rmtree(folder / "merged")


def _of_another_width(folder: Path) -> None:
    change_manifest(folder, embedding={"dimension": 63})


def _without_base(folder: Path) -> None:
    change_manifest(folder, base_model="nowhere/nothing", artifacts={"adapters": "adapters"})


def _with_an_adapter_of_other_layers(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    change_manifest(folder, artifacts={"adapters": "adapters"})
    file = folder / "adapters" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("layers.1", "layers.7"): each for name, each in tensors.items()}, file)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncated, "cannot be loaded"),
        (_without_weights, "cannot be loaded"),
        (_without_a_tensor, "1 are missing, first model.layers.1.mlp.up_proj.weight"),
        (_with_numbers_that_are_none, "does not run: the model answered with something else than finite numbers"),
        (_without_tokenizer, "tokenizer in"),
        (_without_merged, "which the manifest names as artifacts.merged, is not there"),
        (_of_another_width, "makes vectors of 64 numbers; embedding.dimension says 63"),
        (_without_base, "the weights in nowhere/nothing cannot be loaded"),
        (_with_an_adapter_of_other_layers, "the adapters in"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(
    tiny_folder: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = copy_of(tiny_folder, tmp_path)
    damage(folder)
    runtime = open_runtime(folder)

    with pytest.raises(LLMRuntimeError) as refused:
        runtime.generate(HELLO)

    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_load_that_failed_is_tried_again_but_not_at_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(tiny_folder, tmp_path)
    (folder / "merged").rename(tmp_path / "away")
    runtime = open_runtime(folder)
    with pytest.raises(LLMRuntimeError):
        runtime.embed(TEXTS)
    (tmp_path / "away").rename(folder / "merged")
    with pytest.raises(LLMRuntimeError, match="is not there"):
        runtime.embed(TEXTS)

    monkeypatch.setattr(serving.runtime, "RETRY_S", 0)
    assert runtime.embed(TEXTS).shape == (len(TEXTS), WIDTH)
    runtime.close()
