"""The only reader of the environment.

A wrong value stops the start with one line that names the variable, the value and what it may be.
"""

import json
import math
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.embeddings import LABEL, Labels
from app.domain.errors import InvalidInput
from app.domain.manifest import parse_overrides

SECTIONS = (
    "goal_summary",
    "preferences_style",
    "critical_artifacts",
    "recent_history",
    "constraints",
    "task_specific_retrieval",
)


_HIDDEN = ("SLM_API_KEY", "HF_TOKEN", "UPSTREAM_API_KEY")
"""Variables whose values are never shown."""


_POSTGRES = ("postgresql://", "postgres://", "postgresql+asyncpg://")


class Settings(BaseSettings):
    """One field per variable, upper-cased: `token_budget` is `TOKEN_BUDGET`. `.env` is read too. An empty value
    counts as unset."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    data_dir: Path = Path("data")
    log_dir: Path = Path("logs")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    database_url: str | None = None
    database_replica_url: str | None = None
    database_shard_urls: Annotated[tuple[str, ...] | None, NoDecode] = None
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 10

    worker_inside: bool = True
    expired_kept_days: Annotated[int, Field(ge=0, le=36_500)] = 30
    recalls_kept_days: Annotated[int, Field(ge=0, le=36_500)] = 30

    embed_endpoint: str | None = None
    embed_dims: Annotated[int, Field(ge=1, le=16000)] | None = None
    embed_revision: Annotated[str, Field(pattern=f"^{LABEL}$")] | None = None
    embed_pooling: Annotated[str, Field(pattern=f"^{LABEL}$")] | None = None
    embed_prefix: str | None = None
    embed_threads: Annotated[int, Field(ge=1, le=64)] = 1

    slm_impl: Literal["local", "vllm", "openai", "builtin"] = "local"
    vllm_base_url: str = "http://localhost:8000/v1"
    vllm_model_name: str = "unsloth/Qwen2.5-3B-Instruct"
    vllm_rerank_url: str | None = None
    slm_base_url: str | None = None
    slm_api_key: SecretStr | None = None
    slm_model: str | None = None
    slm_concurrency: Annotated[int, Field(ge=1, le=1000)] = 32
    slm_hedge_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    slm_breaker_reset_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    upstream_base_url: str | None = None
    upstream_api_key: SecretStr | None = None
    chat_memory: Literal["off", "read", "on"] = "on"
    chat_clarify: Literal["off", "auto"] = "auto"
    chat_token_budget: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    user_id_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    builtin_model: Path | None = None
    rerank_model: Path | None = None
    local_models_dir: Path = Path("local-models")
    llm_adapter_registry_path: Path | None = None
    llm_models_profile: str = "default"
    llm_models_manifest: Path | None = None
    llm_models_overrides: Annotated[dict[str, Any] | None, NoDecode] = None
    ollama_base_url: str = "http://127.0.0.1:11434"
    hf_endpoint: str = "https://huggingface.co"
    hf_home: Path = Path("~/.cache/huggingface")
    hf_token: SecretStr | None = None
    request_budget_s: Annotated[float, Field(gt=0, le=600)] = 10.0

    token_budget: Annotated[int, Field(ge=256, le=1_000_000)] = 6000
    budget_weights: Annotated[dict[str, float] | None, NoDecode] = None
    auto_advance_confidence: Annotated[float, Field(ge=0.5, le=1.0)] = 0.86
    question_cost: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    order_shuffle: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    facet_half_life_days: Annotated[float, Field(gt=0, le=36_500)] = 180.0
    k_anonymity: Annotated[int, Field(ge=2, le=1000)] = 5
    intents_file: Path | None = None

    enable_training_data_collection: bool = False
    training_data_dir: Path | None = None
    training_file_max_mb: Annotated[float, Field(gt=0, le=10_000)] = 64.0
    train_venv: Path = Path("venv-train")
    promotion_policy: Path | None = None

    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 16.0

    @field_validator("budget_weights", mode="before")
    @classmethod
    def _parse_weights(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            parsed: Any = json.loads(value)
        except ValueError:
            parsed = None
        weights = cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {"": None}
        if set(weights) - set(SECTIONS):
            raise ValueError(f"a JSON object whose keys are among {', '.join(SECTIONS)}")
        if not all(_is_weight(weight) for weight in weights.values()):
            raise ValueError("a JSON object of weights that are zero or more")
        return weights

    @field_validator("llm_models_overrides", mode="before")
    @classmethod
    def _parse_overrides(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return dict(parse_overrides(value))
        except InvalidInput as error:
            raise ValueError(f"a JSON object of roles is wanted: {error}") from None

    @field_validator(
        "embed_endpoint",
        "vllm_base_url",
        "vllm_rerank_url",
        "slm_base_url",
        "upstream_base_url",
        "ollama_base_url",
        "hf_endpoint",
    )
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        try:
            is_usable = not value or (urlsplit(value).scheme in {"http", "https"} and _has_place(value))
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ValueError("an http:// or https:// address, or unset")
        return value or None

    @model_validator(mode="after")
    def _check_slm(self) -> Self:
        if self.slm_impl == "openai" and self.slm_base_url is None:
            raise ValueError("SLM_IMPL=openai needs SLM_BASE_URL, the address of the server, e.g. http://host:11434/v1")
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        said = {
            "EMBED_REVISION": self.embed_revision,
            "EMBED_POOLING": self.embed_pooling,
            "EMBED_PREFIX": self.embed_prefix,
        }
        given = [name for name, value in said.items() if value is not None]
        if given and self.embed_endpoint is None:
            raise ValueError(f"{given[0]} is about the model of EMBED_ENDPOINT, which is not set")
        return self

    @field_validator("database_shard_urls", mode="before")
    @classmethod
    def _split_shard_urls(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("database_shard_urls")
    @classmethod
    def _check_shard_urls(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if not all(url.startswith(_POSTGRES) for url in value or ()):
            raise ValueError("postgresql://USER:PASSWORD@HOST:PORT/NAME of each further shard, with spaces between")
        return value

    @field_validator("database_url", "database_replica_url")
    @classmethod
    def _check_database_url(cls, value: str | None) -> str | None:
        if value and not value.startswith(_POSTGRES):
            raise ValueError("postgresql://USER:PASSWORD@HOST:PORT/NAME, or unset: the embedded one, no replica")
        return value or None

    @property
    def embed_labels(self) -> Labels:
        """What is said of the model of EMBED_ENDPOINT beside what it tells itself."""
        return Labels(self.embed_revision, self.embed_pooling, self.embed_prefix or "")

    @property
    def slm_key(self) -> str | None:
        """The key of the language model's server, in the clear."""
        return self.slm_api_key.get_secret_value() if self.slm_api_key else None

    @property
    def upstream_key(self) -> str | None:
        """The key of the chat proxy's model server, in the clear."""
        return self.upstream_api_key.get_secret_value() if self.upstream_api_key else None

    @property
    def hub_token(self) -> str | None:
        """The token for the Hugging Face hub, in the clear."""
        return self.hf_token.get_secret_value() if self.hf_token else None

    @cached_property
    def training_dir(self) -> Path:
        """Where training samples are written."""
        return self.training_data_dir or self.data_dir / "training"


def _has_place(address: str) -> bool:
    """Whether an address names a host, and a port that can be one. Raises ValueError for another port."""
    parts = urlsplit(address)
    return bool(parts.hostname) and parts.port != 0


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


class SettingsError(ValueError):
    """The environment holds a value the service cannot run with; the message is one line per variable."""


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process. Raises SettingsError with a line per wrong variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(item) for item in error.errors())) from None


def _line(item: ErrorDetails) -> str:
    """What is wrong, with the variable and its value where one variable is to blame."""
    message = item["msg"].removeprefix("Value error, ")
    if not item["loc"]:
        return message
    name = ".".join(str(part) for part in item["loc"]).upper()
    value = "***" if name in _HIDDEN else _shown(item["input"])
    return f"{name}={value} is not usable: {message}"


def _shown(value: object) -> str:
    """`value` on one line, without the password of an address."""
    return re.sub(r"(?<=:)[^:@/]+(?=@)", "***", repr(value))


def load_settings_or_exit(**overrides: Any) -> Settings:
    """As load_settings; prints the lines and exits with status 2 instead of raising."""
    try:
        return load_settings(**overrides)
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
