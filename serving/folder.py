"""What a model's folder says of itself: backend, pooling, limits, prompts. Everything is read, nothing is guessed.

The layout is that of sentence-transformers: `modules.json` names the modules, each with a folder of its own, and
`config_sentence_transformers.json` the prompts. A folder without `modules.json` is served when its graph says
everything itself: a cross-encoder, or an embedding model with its pooling inside.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from serving.errors import ModelRefused

BackendName = Literal["onnx", "openvino", "sentence-transformers"]
Kind = Literal["embedding", "cross-encoder"]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How sentence-transformers before version 6 wrote the pooling."""

_OFFSET_POSITIONS = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
"""Position vectors that no token uses, by `model_type`."""

OWN_MODULES = {"Transformer", "Pooling", "Normalize"}
"""Of a sentence-transformers folder, what a graph backend does itself; other modules need sentence-transformers."""

_GRAPHS: Mapping[BackendName, tuple[str, str]] = {
    "onnx": ("model.onnx", "*.onnx"),
    "openvino": ("openvino_model.xml", "*.xml"),
}
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "adapter_model.safetensors")


@dataclass(frozen=True)
class ModelFolder:
    """A folder that can be served."""

    path: Path
    kind: Kind
    backend: BackendName
    tokenizer: Path
    max_tokens: int
    """Most tokens read of a text or a pair, special ones included."""
    graph: Path | None = None
    pooling: tuple[str, ...] = ()
    """Modes whose vectors are put side by side; empty where the folder does not say."""
    is_normalised: bool = False
    is_lower_cased: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt_name: str | None = None
    is_matryoshka: bool = False
    matryoshka_dimensions: tuple[int, ...] = ()
    """The lengths it was trained for; empty with `is_matryoshka`: any."""

    @property
    def name(self) -> str:
        """What the model is called: the folder's name."""
        return self.path.name


def read_folder(path: Path, backend: BackendName | Literal["auto"] = "auto") -> ModelFolder:
    """What the folder says. Raises ModelRefused, in one line, where something is missing or not understood."""
    if not path.is_dir():
        raise ModelRefused(f"{path} is not a folder.")
    path = path.resolve()
    modules = _modules_in(path)
    base = path / _path_of("Transformer", modules)
    config, sentence = _object_in(base / "config.json"), _object_in(path / "config_sentence_transformers.json")
    kind: Kind = "cross-encoder" if _is_cross_encoder(config, sentence) else "embedding"
    tokenizer = base / "tokenizer.json"
    if not tokenizer.is_file():
        raise ModelRefused(f"{tokenizer} is missing.")
    chosen, graph = _choose(path, base, backend)
    if kind == "embedding" and graph is not None and (foreign := {each["type"] for each in modules} - OWN_MODULES):
        names = ", ".join(sorted(foreign))
        raise ModelRefused(f"{path}/modules.json has modules that only sentence-transformers can run: {names}.")
    prompts = _prompts_in(sentence, path)
    transformer = _object_in(base / "sentence_bert_config.json")
    lengths = config.get("matryoshka_dimensions")
    return ModelFolder(
        path=path,
        kind=kind,
        backend=chosen,
        tokenizer=tokenizer,
        max_tokens=_max_tokens_in(base, config, transformer),
        graph=graph,
        pooling=_pooling_in(path, modules, has_prompts=any(prompts.values())),
        is_normalised=any(each["type"] == "Normalize" for each in modules),
        is_lower_cased=transformer.get("do_lower_case") is True,
        prompts=prompts,
        default_prompt_name=_default_prompt_in(sentence, prompts, path),
        is_matryoshka=config.get("is_matryoshka") is True or isinstance(lengths, list),
        matryoshka_dimensions=tuple(cast("list[int]", lengths)) if isinstance(lengths, list) else (),
    )


def _choose(path: Path, base: Path, wanted: BackendName | Literal["auto"]) -> tuple[BackendName, Path | None]:
    """The backend and its graph: a graph goes before weights, ONNX before OpenVINO."""
    for name in _GRAPHS:
        if wanted in {"auto", name} and (graph := _graph_in(path, base, name)):
            if name == "openvino" and not graph.with_suffix(".bin").is_file():
                raise ModelRefused(f"{graph.with_suffix('.bin')} is missing.")
            return name, graph
    if wanted in {"auto", "sentence-transformers"} and any((base / each).is_file() for each in _WEIGHTS):
        return "sentence-transformers", None
    what = (
        "neither onnx/*.onnx nor openvino/*.xml nor model.safetensors" if wanted == "auto" else f"nothing for {wanted}"
    )
    raise ModelRefused(f"{path} holds no model: there is {what}.")


def _graph_in(path: Path, base: Path, backend: BackendName) -> Path | None:
    usual, pattern = _GRAPHS[backend]
    for place in dict.fromkeys((path / backend, base / backend, base)):
        if (place / usual).is_file():
            return place / usual
        found = sorted(place.glob(pattern))
        if len(found) > 1:
            names = ", ".join(each.name for each in found)
            raise ModelRefused(f"{place} holds several graphs and none is called {usual}: {names}.")
        if found:
            return found[0]
    return None


def _modules_in(path: Path) -> list[dict[str, str]]:
    """The modules in order, `type` without its package; none where there is no modules.json."""
    file = path / "modules.json"
    if not file.is_file():
        return []
    try:
        listed: Any = json.loads(file.read_text("utf8"))
        return [{"type": str(each["type"]).rpartition(".")[2], "path": str(each["path"])} for each in listed]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelRefused(f"{file} is not a list of modules.") from None


def _path_of(kind: str, modules: list[dict[str, str]]) -> str:
    return next((each["path"] for each in modules if each["type"] == kind), "")


def _is_cross_encoder(config: Mapping[str, Any], sentence: Mapping[str, Any]) -> bool:
    architectures = [str(each) for each in config.get("architectures") or ()]
    return sentence.get("model_type") == "CrossEncoder" or any(
        each.endswith("ForSequenceClassification") for each in architectures
    )


def _pooling_in(path: Path, modules: list[dict[str, str]], *, has_prompts: bool) -> tuple[str, ...]:
    """The pooling modes; none where there is no Pooling module."""
    if not any(each["type"] == "Pooling" for each in modules):
        return ()
    file = path / _path_of("Pooling", modules) / "config.json"
    if not file.is_file():
        raise ModelRefused(f"{file}, which says how tokens are pooled, is missing.")
    config = _object_in(file)
    stated: Any = config.get("pooling_mode")
    if stated is None:
        stated = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
        unknown = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        stated += [key for key in unknown if key not in _POOLING_FLAGS]
    modes = tuple(cast("list[str]", [stated] if isinstance(stated, str) else stated))
    if not modes:
        raise ModelRefused(f"{file} names no pooling.")
    if wrong := [mode for mode in modes if mode not in POOLINGS]:
        raise ModelRefused(f"{file} names an unknown pooling, {wrong[0]!r}; known are {', '.join(POOLINGS)}.")
    if config.get("include_prompt") is False and has_prompts:
        raise ModelRefused(f"{file} leaves prompts out of the pooling, which is not supported.")
    return modes


def _prompts_in(sentence: Mapping[str, Any], path: Path) -> dict[str, str]:
    prompts: Any = sentence.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(each, str) for each in cast("dict[str, Any]", prompts).values()
    ):
        raise ModelRefused(f"{path}/config_sentence_transformers.json has prompts that are not texts by name.")
    return cast("dict[str, str]", prompts)


def _default_prompt_in(sentence: Mapping[str, Any], prompts: Mapping[str, str], path: Path) -> str | None:
    name = sentence.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise ModelRefused(f"{path}/config_sentence_transformers.json names a default prompt that it does not have.")
    return name


def _max_tokens_in(base: Path, config: Mapping[str, Any], transformer: Mapping[str, Any]) -> int:
    """As sentence-transformers: `max_seq_length`, or else the least of what model and tokenizer are made for."""
    stated = transformer.get("max_seq_length")
    if isinstance(stated, int):
        return stated
    positions = config.get("max_position_embeddings")
    limits = [_object_in(base / "tokenizer_config.json").get("model_max_length")]
    if isinstance(positions, int):
        limits.append(positions - _OFFSET_POSITIONS.get(str(config.get("model_type")), 0))
    known = [int(each) for each in limits if isinstance(each, int | float) and 0 < each < 1e9]
    if not known:
        raise ModelRefused(f"{base} does not say how many tokens the model reads (max_seq_length).")
    return min(known)


def _object_in(file: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is no such file. Raises ModelRefused for another content."""
    if not file.is_file():
        return {}
    try:
        found: Any = json.loads(file.read_text("utf8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ModelRefused(f"{file} is not a JSON object.")
    return cast("dict[str, Any]", found)
