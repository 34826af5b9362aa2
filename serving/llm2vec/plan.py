"""How a checkpoint is loaded on this machine: a pure decision over its manifest, the settings and the hardware."""

from dataclasses import dataclass
from typing import Literal

from serving.errors import ModelRefused
from serving.llm2vec.manifest import DType, Manifest, Quantization
from serving.llm2vec.settings import ModelSettings

FLOAT32_SHARE = 0.5
"""Of the machine's memory: weights that would take more of it as float32 are loaded as bfloat16 on the CPU."""

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Hardware:
    """What the weights may be loaded on."""

    has_cuda: bool
    has_cuda_bfloat16: bool
    """Whether the GPU computes in bfloat16 itself."""
    memory_bytes: int
    """Of the machine, not of the GPU."""


@dataclass(frozen=True)
class LoadPlan:
    """What is loaded, where to, and in which numbers."""

    source: Literal["merged", "adapters"]
    device: str
    dtype: DType
    """Of the weights, or with `quantization` of what is computed with them."""
    quantization: Quantization | None

    @property
    def precision(self) -> str:
        """The precision in a word, for people."""
        return f"4-bit {self.quantization.bnb_4bit_quant_type}" if self.quantization else self.dtype


def plan_load(manifest: Manifest, settings: ModelSettings, hardware: Hardware, saved_bytes: int) -> LoadPlan:
    """The plan; `saved_bytes` is the size of the weights' files, 0 where it is not known.

    Four bits need CUDA. The CPU computes in float32, in which a text's vector does not depend on its batch, unless that
    takes too much memory. Merged weights are the simpler ones; under four bits the adapters come first, because they
    were trained on such a base. Raises ModelRefused for a device that is not there.
    """
    device = _device(settings.device, hardware)
    quantization = _quantization(manifest.quantization, settings) if device != "cpu" else None
    artifacts = manifest.artifacts
    is_merged = artifacts.adapters is None or (
        artifacts.merged is not None and (quantization is None or settings.prefer_merged)
    )
    if quantization is not None:
        dtype = quantization.bnb_4bit_compute_dtype
    elif settings.dtype != "auto":
        dtype = settings.dtype
    elif device == "cpu":
        as_float32 = saved_bytes / _BYTES[manifest.dtype] * _BYTES["float32"]
        dtype = "float32" if as_float32 <= FLOAT32_SHARE * hardware.memory_bytes else "bfloat16"
    else:
        dtype = manifest.dtype if manifest.dtype != "bfloat16" or hardware.has_cuda_bfloat16 else "float16"
    return LoadPlan("merged" if is_merged else "adapters", device, dtype, quantization)


def _device(wanted: str, hardware: Hardware) -> str:
    if wanted == "auto":
        return "cuda:0" if hardware.has_cuda else "cpu"
    if wanted != "cpu" and not hardware.has_cuda:
        raise ModelRefused(f"MODEL__DEVICE={wanted} is not usable: torch sees no GPU.")
    return "cuda:0" if wanted == "cuda" else wanted


def _quantization(stated: Quantization, settings: ModelSettings) -> Quantization | None:
    """What the settings say, and where they say nothing the manifest; None for weights of 16 or 32 bits."""
    is_wanted = stated.load_in_4bit if settings.quantize_4bit is None else settings.quantize_4bit
    if not is_wanted:
        return None
    is_double = settings.bnb_4bit_use_double_quant
    return Quantization(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.bnb_4bit_quant_type or stated.bnb_4bit_quant_type,
        bnb_4bit_compute_dtype=settings.bnb_4bit_compute_dtype or stated.bnb_4bit_compute_dtype,
        bnb_4bit_use_double_quant=stated.bnb_4bit_use_double_quant if is_double is None else is_double,
    )
