"""The settings of the SLM server: `HOST`, `PORT`, `MODELS_DIR`, and one group each for the two models.

Groups are nested: `chat.model_path` is the variable `CHAT__MODEL_PATH`. No `.env` file is read: that of the service
beside it would answer for variables of the same names.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableVariable

from serving.settings import ServeSettings, SettingsError

Threads = Annotated[int, Field(ge=1, le=256)]

_BACKENDS = {"torch": "sentence-transformers"}
"""Names of the plan that the model server calls otherwise."""


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise ValueError("it may be auto, cpu, cuda or cuda:N")
    return value


class EmbeddingSettings(BaseModel):
    """The dedicated embedding model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_name: Annotated[str, Field(min_length=1)] = "sentence-transformers/all-MiniLM-L6-v2"
    """A folder, or a model's name: its last part is a folder in `MODELS_DIR`."""
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    backend: Literal["auto", "onnx", "openvino", "torch"] = "onnx"
    threads: Threads = 1
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    queue_tokens: Annotated[int, Field(ge=1, le=100_000_000)] = 400_000
    """Most tokens accepted and not yet answered; beyond that 429."""
    normalize: bool = True


class ChatSettings(BaseModel):
    """The chat model, and what llama.cpp may take for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_path: Path | None = None
    """A GGUF file; unset: the only one in `MODELS_DIR`."""
    context: Annotated[int, Field(ge=256, le=1_048_576)] = 2048
    """Tokens of a conversation, its answer included."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """How many answers are written at once; each has a context of its own."""
    queue: Annotated[int, Field(ge=0, le=1024)] = 8
    """How many requests wait for their turn; beyond that 429."""
    threads: Threads = 1
    niceness: Annotated[int, Field(ge=0, le=19)] = 10
    """Of the chat's threads: whoever embeds gets the processor first."""
    batch: Annotated[int, Field(ge=32, le=4096)] = 128
    """Tokens of a prompt that are read at a time."""
    kv_type: Literal["f16", "q8_0"] = "f16"
    """How the context is kept; q8_0 takes half the memory."""
    prompt_cache_mb: Annotated[int, Field(ge=0, le=65_536)] = 64
    """Memory for the prompts of earlier conversations."""
    repack: bool = False
    """Whether weights are copied into a form that is read faster: up to their size in memory once more."""


class SlmSettings(BaseSettings):
    """One field per variable; an empty value counts as unset."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    models_dir: Path = Path("local-models")
    embedding: EmbeddingSettings = EmbeddingSettings()
    chat: ChatSettings = ChatSettings()

    @property
    def embedding_folder(self) -> Path:
        """Where the embedding model lies, or should."""
        named = Path(self.embedding.model_name)
        return named if named.is_dir() else self.models_dir / named.name

    def for_embeddings(self) -> ServeSettings:
        """What the model server is told. Every field is given, so that no SERVE_* variable has a say."""
        own = self.embedding
        return ServeSettings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            model=self.embedding_folder,
            host=self.host,
            port=self.port,
            device=own.device,
            concurrency=64,
            batch_size=own.batch_size,
            normalize=own.normalize,
            backend=_BACKENDS.get(own.backend, own.backend),  # pyright: ignore[reportArgumentType]
            threads=own.threads,
            queue_tokens=own.queue_tokens,
        )


def load_slm_settings(**overrides: Any) -> SlmSettings:
    """The settings of this process. Raises SettingsError with a line per wrong variable."""
    try:
        return SlmSettings(**overrides)
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_line(item["loc"], item["input"], item["msg"]) for item in error.errors())
        ) from None
    except UnreadableVariable as error:
        raise SettingsError(f"{error}: it may be a JSON object, or use EMBEDDING__NAME and CHAT__NAME") from None


def _line(location: tuple[int | str, ...], value: object, message: str) -> str:
    name = "__".join(str(part) for part in location).upper()
    said = message.removeprefix("Value error, ")
    said = "there is no such setting" if said.startswith("Extra inputs") else said
    return f"{name}={value!r} is not usable: {said}"
