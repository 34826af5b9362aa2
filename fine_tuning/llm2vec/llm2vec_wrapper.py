"""Talk to a checkpoint, and embed with it, by one set of weights.

    from llm2vec_wrapper import embed, generate

    embed(["How do we share weights?"])        # shape (texts, dimension), float32
    generate("How do we share weights?")       # the answer

It stands in `wrapper/` of the checkpoint's folder, beside the `config.json` that says how the weights are loaded and
how texts become vectors, and needs torch, transformers, and peft where there are only adapters; nothing is fetched
from a hub that lies in the folder. Written by Embed Service, to be copied wherever the checkpoint goes.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

Vectors = NDArray[np.float32]
"""Shape (texts, dimension)."""

Message = Mapping[str, str]
"""`role` and `content`."""

_QUANTIZATION = {"load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant"}
_KEYS: Mapping[str, set[str]] = {
    "quantization": _QUANTIZATION,
    "embedding": {"pooling", "max_length", "normalise", "attention", "prompt", "dimension"},
    "chat": {"temperature", "top_p", "max_new_tokens", "do_sample"},
    "artifacts": {"adapters", "merged", "tokenizer", "gguf"},
}
_OWN_KEYS = {"schema_version", "base_model", "backend", "dtype", *_KEYS}
_OF_AN_EXPORT = {"manifest_version", "created_at", "export_dir"}
_LOADING = threading.Lock()


class WrapperError(Exception):
    """The folder cannot be used, or a text cannot; one line that says why."""


class LLM2VecWrapper:
    """The model of one folder. Calls take turns."""

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        prefer_merged: bool = True,
        load_in_4bit: bool | None = None,
        device: str | None = None,
    ) -> None:
        """Load the model. `folder`: the checkpoint's, by default the one that this file lies in. Without
        `prefer_merged`, adapters go before merged weights. `load_in_4bit` (by default as the manifest says) counts on
        CUDA only. On the CPU everything is computed in float32. Raises WrapperError."""
        self.folder = Path(folder) if folder is not None else Path(__file__).resolve().parents[1]
        self.manifest = _read_manifest(self.folder / "wrapper" / "config.json")
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._turn = threading.Lock()
        quantized = self.manifest["quantization"]["load_in_4bit"] if load_in_4bit is None else load_in_4bit
        loading: dict[str, Any] = {"dtype": _dtype(self.manifest["dtype"] if self._is_on_gpu else "float32")}
        if quantized and self._is_on_gpu:
            loading |= {"quantization_config": _quantization(self.manifest["quantization"]), "device_map": self.device}
        artifacts = self.manifest["artifacts"]
        kinds = ("merged", "adapters") if prefer_merged else ("adapters", "merged")
        self.kind = next((kind for kind in kinds if artifacts[kind] is not None), "merged")
        source = _inside(self.folder, artifacts, self.kind)
        tokenizer = _inside(self.folder, artifacts, "tokenizer")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer)
            self._tokenizer.padding_side = "right"  # so that a text's first token is at position 0 in any batch
            merged = self.kind == "merged"
            model: Any = AutoModelForCausalLM.from_pretrained(
                source if merged else self.manifest["base_model"], **loading
            )
            if not merged:
                from peft import PeftModel  # noqa: PLC0415 - merged weights do without it

                model = PeftModel.from_pretrained(model, source)
        except Exception as error:  # noqa: BLE001 - whatever the libraries raise for files that are not whole
            raise WrapperError(f"{source} cannot be loaded: {_first_line(error)}") from None
        self._model = (model if "device_map" in loading else model.to(self.device)).eval()
        found, stated = int(self._model.config.hidden_size), self.manifest["embedding"]["dimension"]
        if found != stated:
            raise WrapperError(f"{source} gives vectors of {found} numbers, the manifest says {stated}.")

    @torch.inference_mode()  # pyright: ignore[reportUntypedFunctionDecorator]
    def embed(self, texts: Sequence[str], *, normalise: bool | None = None, batch_size: int = 16) -> Vectors:
        """The mean of each text's last hidden states, padding left out: shape (texts, dimension), of unit length where
        `normalise` (by default as the manifest says). A text is cut at the manifest's `max_length` tokens, its prompt
        counted in. Raises WrapperError for a text without a token."""
        how = self.manifest["embedding"]
        ids = [self._tokenizer(how["prompt"] + text)["input_ids"][: how["max_length"]] for text in texts]
        if empty := [place for place, own in enumerate(ids) if not own]:
            raise WrapperError(f"text {empty[0]} (from 0) is empty: there is nothing to embed.")
        vectors = torch.empty(len(ids), how["dimension"])
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))  # little padding
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            vectors[some] = self._pooled([ids[place] for place in some])
        if how["normalise"] if normalise is None else normalise:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.numpy()

    @torch.inference_mode()  # pyright: ignore[reportUntypedFunctionDecorator]
    def generate(self, messages: str | Sequence[Message], **sampling: Any) -> str:
        """The answer to a user's words, or to a conversation. `sampling`: `temperature`, `top_p`, `max_new_tokens`,
        `do_sample`, by default as the manifest says. Raises WrapperError where the model has no chat template."""
        if unknown := sampling.keys() - _KEYS["chat"]:
            raise WrapperError(f"{min(unknown)} is not known: generate takes {', '.join(sorted(_KEYS['chat']))}.")
        if not self._tokenizer.chat_template:
            raise WrapperError(f"{self.folder} has no chat template: it embeds only.")
        said = (
            [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(each) for each in messages]
        )
        chosen = {**self.manifest["chat"], **sampling}
        if not chosen["do_sample"] or not chosen["temperature"]:
            chosen = {
                "max_new_tokens": chosen["max_new_tokens"],
                "do_sample": False,
                "temperature": None,
                "top_p": None,
            }
        asked = self._tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.device)
        with self._turn:
            ids = self._model.generate(**asked, **chosen, pad_token_id=self._tokenizer.pad_token_id)
        return self._tokenizer.decode(ids[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)

    @property
    def _is_on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _pooled(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """One run of the model: shape (texts, dimension)."""
        longest = max(map(len, ids))
        padded = [[*own, *[0] * (longest - len(own))] for own in ids]
        mask = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own in ids], device=self.device)
        model = self._model.get_base_model() if self.kind == "adapters" else self._model
        with self._turn:
            found = model.get_decoder()(
                input_ids=torch.tensor(padded, device=self.device), attention_mask=mask, use_cache=False
            )
        weights = mask.unsqueeze(-1).float()
        return ((found.last_hidden_state.float() * weights).sum(1) / weights.sum(1)).cpu()


def embed(texts: Sequence[str], *, normalise: bool | None = None) -> Vectors:
    """See LLM2VecWrapper.embed."""
    return _loaded().embed(texts, normalise=normalise)


def generate(messages: str | Sequence[Message], **sampling: Any) -> str:
    """See LLM2VecWrapper.generate."""
    return _loaded().generate(messages, **sampling)


@cache
def _load() -> LLM2VecWrapper:
    return LLM2VecWrapper()


def _loaded() -> LLM2VecWrapper:
    """The model of the folder that this file lies in, loaded once, whoever asks first."""
    with _LOADING:
        return _load()


def _read_manifest(file: Path) -> dict[str, Any]:
    """Raises WrapperError for a manifest that is missing, or does not say exactly what this file understands."""
    try:
        manifest: Any = json.loads(file.read_text("utf8"))
    except (OSError, ValueError) as error:
        raise WrapperError(f"{file} cannot be read: {_first_line(error)}") from None
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(name), dict) for name in _KEYS):
        raise WrapperError(f"{file} is no manifest: it needs {', '.join(_KEYS)}.")
    _same_keys(file, "", manifest.keys() - _OF_AN_EXPORT, _OWN_KEYS)
    for name, keys in _KEYS.items():
        _same_keys(file, f"{name}.", manifest[name].keys(), keys)
    known = {"schema_version": 1, "backend": "huggingface"}, {"pooling": "mean", "attention": "causal"}
    for where, expected in zip((manifest, manifest["embedding"]), known, strict=True):
        for key, value in expected.items():
            if where[key] != value:
                raise WrapperError(f"{file} says {key}={where[key]!r}; this wrapper knows {value!r} only.")
    return manifest


def _same_keys(file: Path, path: str, found: Any, wanted: set[str]) -> None:
    for problem, names in (("has no", wanted - set(found)), ("has an unknown key", set(found) - wanted)):
        if names:
            raise WrapperError(f"{file} {problem} {path}{min(names)}.")


def _inside(folder: Path, artifacts: Mapping[str, str | None], name: str) -> Path:
    """An artefact's path. Raises WrapperError where it is not there, or lies elsewhere."""
    named = artifacts[name]
    path = (folder / (named or "")).resolve()
    if named is None or not path.is_dir() or not path.is_relative_to(folder.resolve()):
        raise WrapperError(f"{folder} has no {name}: the manifest names {named!r}, and there is no such folder in it.")
    return path


def _quantization(said: Mapping[str, Any]) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=said["bnb_4bit_quant_type"],
        bnb_4bit_compute_dtype=_dtype(said["bnb_4bit_compute_dtype"]),
        bnb_4bit_use_double_quant=said["bnb_4bit_use_double_quant"],
    )


def _dtype(name: str) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise WrapperError(f"{name!r} is no dtype that is known: {', '.join(known)}.")
    return known[name]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
