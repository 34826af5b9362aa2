"""Which weights are loaded, where to and in which numbers: four bits on CUDA only, float32 where it fits."""

from dataclasses import replace
from typing import Any

import pytest

from serving.errors import ModelRefused
from serving.llm2vec.manifest import Artifacts, Embedding, Manifest, Quantization
from serving.llm2vec.plan import Hardware, plan_load
from serving.llm2vec.settings import ModelSettings, load_runtime_settings
from serving.settings import SettingsError

GB = 10**9
CPU = Hardware(has_cuda=False, has_cuda_bfloat16=False, memory_bytes=24 * GB)
GPU = Hardware(has_cuda=True, has_cuda_bfloat16=True, memory_bytes=24 * GB)
OLD_GPU = replace(GPU, has_cuda_bfloat16=False)
BOTH = Manifest(
    base_model="base",
    embedding=Embedding(dimension=64),
    artifacts=Artifacts(merged="merged", adapters="adapters"),
    quantization=Quantization(load_in_4bit=True),
)
PLAIN = replace(BOTH, quantization=Quantization())
ADAPTERS = replace(BOTH, artifacts=Artifacts(adapters="adapters"))
MERGED = replace(BOTH, artifacts=Artifacts(merged="merged"))


@pytest.mark.parametrize(
    ("manifest", "settings", "hardware", "expected"),
    [
        (BOTH, {}, CPU, ("merged", "cpu", "float32", None)),
        (BOTH, {"quantize_4bit": True}, CPU, ("merged", "cpu", "float32", None)),
        (BOTH, {"dtype": "bfloat16"}, CPU, ("merged", "cpu", "bfloat16", None)),
        (ADAPTERS, {}, CPU, ("adapters", "cpu", "float32", None)),
        (BOTH, {}, GPU, ("adapters", "cuda:0", "bfloat16", "nf4")),
        (BOTH, {"prefer_merged": True}, GPU, ("merged", "cuda:0", "bfloat16", "nf4")),
        (BOTH, {"quantize_4bit": False}, GPU, ("merged", "cuda:0", "bfloat16", None)),
        (BOTH, {"quantize_4bit": False}, OLD_GPU, ("merged", "cuda:0", "float16", None)),
        (BOTH, {"bnb_4bit_quant_type": "fp4"}, GPU, ("adapters", "cuda:0", "bfloat16", "fp4")),
        (BOTH, {"bnb_4bit_compute_dtype": "float16"}, GPU, ("adapters", "cuda:0", "float16", "nf4")),
        (PLAIN, {}, GPU, ("merged", "cuda:0", "bfloat16", None)),
        (PLAIN, {"quantize_4bit": True}, GPU, ("adapters", "cuda:0", "bfloat16", "nf4")),
        (MERGED, {}, GPU, ("merged", "cuda:0", "bfloat16", "nf4")),
        (BOTH, {"device": "cpu"}, GPU, ("merged", "cpu", "float32", None)),
        (PLAIN, {"device": "cuda:1"}, GPU, ("merged", "cuda:1", "bfloat16", None)),
    ],
)
def test_the_plan_follows_manifest_settings_and_hardware(
    manifest: Manifest, settings: dict[str, Any], hardware: Hardware, expected: tuple[Any, ...]
) -> None:
    plan = plan_load(manifest, ModelSettings(**settings), hardware, GB)

    kind = plan.quantization and plan.quantization.bnb_4bit_quant_type
    assert (plan.source, plan.device, plan.dtype, kind) == expected


def test_weights_that_would_fill_the_memory_are_loaded_as_bfloat16() -> None:
    plans = [plan_load(BOTH, ModelSettings(), CPU, size * GB).dtype for size in (0, 6, 7, 16)]

    assert plans == ["float32", "float32", "bfloat16", "bfloat16"]


def test_double_quantization_is_the_manifest_s_unless_set() -> None:
    def found(**settings: bool) -> bool:
        plan = plan_load(BOTH, ModelSettings(**settings), GPU, GB)
        assert plan.quantization
        return plan.quantization.bnb_4bit_use_double_quant

    assert (found(), found(bnb_4bit_use_double_quant=False)) == (True, False)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelRefused, match="MODEL__DEVICE=cuda is not usable"):
        plan_load(BOTH, ModelSettings(device="cuda"), CPU, GB)


def test_settings_are_read_by_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MODEL__QUANTIZE_4BIT": "false",
        "MODEL__BNB_4BIT_QUANT_TYPE": "fp4",
        "MODEL__BNB_4BIT_COMPUTE_DTYPE": "float16",
        "MODEL__BNB_4BIT_USE_DOUBLE_QUANT": "0",
        "MODEL__MAX_NEW_TOKENS": "64",
        "MODEL__DEVICE": "cuda",
        "MODEL__THREADS": "",
    }.items():
        monkeypatch.setenv(name, value)

    model = load_runtime_settings(device="cpu").model

    assert (model.quantize_4bit, model.bnb_4bit_quant_type, model.bnb_4bit_compute_dtype) == (False, "fp4", "float16")
    assert (model.bnb_4bit_use_double_quant, model.max_new_tokens) == (False, 64)
    assert (model.device, model.threads) == ("cpu", None)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MODEL__QUANTIZE_4BIT", "perhaps", "boolean"),
        ("MODEL__BNB_4BIT_QUANT_TYPE", "nf5", "'fp4'"),
        ("MODEL__BNB_4BIT_COMPUTE_DTYPE", "int8", "'bfloat16'"),
        ("MODEL__DTYPE", "int8", "'float32'"),
        ("MODEL__MAX_NEW_TOKENS", "0", "greater than or equal to 1"),
        ("MODEL__DEVICE", "tpu", "cuda"),
        ("MODEL__MAX_NEW_TOKEN", "1", "no such setting"),
    ],
)
def test_a_wrong_value_is_one_line_with_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as refused:
        load_runtime_settings()

    assert f"{name}={value!r}" in str(refused.value)
    assert allowed in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
