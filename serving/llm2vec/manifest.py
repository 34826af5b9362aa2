"""The manifest of a checkpoint that talks and embeds: `wrapper_config.json`, and `wrapper/config.json` beside it.

    local-models/<name>/
    ├── wrapper_config.json      what the training knows
    ├── wrapper/config.json      the same, and when it was exported; where both are, this one is read
    └── adapters/  merged/  tokenizer/  gguf/    as `artifacts` names them

Whoever writes a manifest builds a `Manifest`, which is checked as it is built (pydantic's ValidationError is a
ValueError); whoever reads one gets a `Manifest`, or ModelRefused in one line with the path to what is wrong. Nothing
here needs torch.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from serving.errors import ModelRefused

TRAINED = "wrapper_config.json"
EXPORTED = "wrapper/config.json"

MAX_BYTES = 1024 * 1024

DType = Literal["bfloat16", "float16", "float32"]
ArtifactName = Literal["adapters", "merged", "tokenizer", "gguf"]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, str_max_length=10_000)


def _inside(path: str) -> str:
    """Refuse a path that is absolute, climbs, or means something else on another system."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or any(each in path for each in "\\:\0"):
        raise ValueError("it has to be a path inside the folder, like merged or gguf/model-f16.gguf")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]


@dataclass(frozen=True, config=_STRICT)
class Quantization:
    """How the weights are loaded on CUDA; the CPU never quantizes. The names are those of bitsandbytes."""

    load_in_4bit: bool = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_compute_dtype: DType = "bfloat16"
    bnb_4bit_use_double_quant: bool = True


@dataclass(frozen=True, config=_STRICT)
class Embedding:
    """How a text becomes a vector."""

    dimension: Annotated[int, Field(ge=1, le=1_000_000)]
    max_length: Annotated[int, Field(ge=2, le=10_000_000)] = 512
    """Most tokens read of a text, special ones included."""
    pooling: Literal["mean"] = "mean"
    """Over the last hidden state of a text's own tokens."""
    normalise: bool = True
    """Whether vectors are of unit length where a caller does not say."""
    attention: Literal["causal", "bidirectional"] = "causal"
    """Which tokens see which while embedding; chat is causal in any case."""
    prompt: str = ""
    """Put before every text."""


@dataclass(frozen=True, config=_STRICT)
class Chat:
    """How an answer is sampled where a caller does not say."""

    temperature: Annotated[float, Field(ge=0, le=10)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_new_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 256
    do_sample: bool = True


@dataclass(frozen=True, config=_STRICT)
class Artifacts:
    """Where what was trained lies, relative to the folder. Weights are in `merged`, or in `adapters` for the base."""

    tokenizer: InsidePath = "tokenizer"
    adapters: InsidePath | None = None
    merged: InsidePath | None = None
    gguf: InsidePath | None = None

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.adapters is None and self.merged is None:
            raise ValueError("adapters or merged has to be named")
        return self


@dataclass(frozen=True, config=_STRICT)
class Manifest:
    """What a checkpoint says of itself."""

    base_model: Annotated[str, Field(min_length=1)]
    """A folder or a hub name: what the adapters belong to."""
    embedding: Embedding
    artifacts: Artifacts
    schema_version: Literal[1] = 1
    backend: Literal["huggingface"] = "huggingface"
    dtype: DType = "bfloat16"
    """What the merged weights are saved in."""
    quantization: Quantization = Field(default_factory=Quantization)
    chat: Chat = Field(default_factory=Chat)
    manifest_version: Annotated[int, Field(ge=1)] | None = None
    """Of an exported wrapper, as the two below."""
    created_at: AwareDatetime | None = None
    export_dir: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document: every key but those of an export that was not made."""
        document: dict[str, Any] = _MANIFEST.dump_python(self, mode="json")
        exported = ("manifest_version", "created_at", "export_dir")
        return {key: value for key, value in document.items() if value is not None or key not in exported}

    def write(self, file: Path) -> None:
        """Write the document; `file` is the old or the new one at any moment."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text(json.dumps(self.to_json(), ensure_ascii=False, indent=2) + "\n", "utf8")
        draft.replace(file)


_MANIFEST = TypeAdapter(Manifest)


def parse_manifest(content: bytes | str, name: str = "the manifest") -> Manifest:
    """The manifest in a JSON document. Raises ModelRefused in one line, where `name` is what the document is called."""
    try:
        return _MANIFEST.validate_json(content)
    except ValidationError as error:
        found = error.errors()
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ModelRefused(f"{name}: {_line(found[0])}{more}") from None


def read_manifest(folder: Path) -> Manifest:
    """What the folder says of itself: `wrapper/config.json`, or else `wrapper_config.json`.

    Its artefacts lie inside the folder, symlinks resolved; whether they are there is asked by `artifact`. Raises
    ModelRefused in one line.
    """
    if not folder.is_dir():
        raise ModelRefused(f"{folder} is not a folder.")
    file = next((folder / each for each in (EXPORTED, TRAINED) if (folder / each).is_file()), None)
    if file is None:
        raise ModelRefused(f"{folder} has no manifest: there is neither {EXPORTED} nor {TRAINED}.")
    _resolved(folder, file, str(file))
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ModelRefused(f"{file} is no manifest: it has more than {MAX_BYTES:,} bytes.")
        manifest = parse_manifest(file.read_bytes(), str(file))
    except OSError as error:
        raise ModelRefused(f"{file} cannot be read: {error.strerror}.") from None
    for name, path in asdict(manifest.artifacts).items():
        if path is not None:
            _resolved(folder, folder / path, f"{file}: artifacts.{name}={path!r}")
    return manifest


def artifact(folder: Path, manifest: Manifest, name: ArtifactName) -> Path | None:
    """Where an artefact lies; None where the manifest has none. Raises ModelRefused where it is not there."""
    path: str | None = getattr(manifest.artifacts, name)
    if path is None:
        return None
    found = _resolved(folder, folder / path, f"artifacts.{name}={path!r}")
    if not found.exists():
        raise ModelRefused(f"{folder / path}, which the manifest names as artifacts.{name}, is not there.")
    return found


def _resolved(folder: Path, path: Path, what: str) -> Path:
    """The path without symlinks. Raises ModelRefused where it is outside of the folder."""
    try:
        found = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle
        raise ModelRefused(f"{what} leads nowhere.") from None
    if not found.is_relative_to(folder.resolve()) or found == folder.resolve():
        raise ModelRefused(f"{what} leads out of the folder {folder}.")
    return found


def _line(error: ErrorDetails) -> str:
    """What is wrong, with the path to it."""
    path = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "json_invalid":
        return f"it is not JSON: {message.removeprefix('Invalid JSON: ')}"
    if error["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        return f"there is no key {path}"
    if error["type"] in {"missing", "missing_argument"}:
        return f"{path} is missing"
    value = error["input"]
    if isinstance(value, str | int | float | bool | None):
        return f"{path}={_shown(value)} is not usable: {message}"
    return f"{path or 'the document'} is not usable: {message}"


def _shown(value: object) -> str:
    """The value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
