"""The only reader of the environment.

A wrong value stops the start with one line that names the variable, the value and what it may be.
"""

import json
import math
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SECTIONS = (
    "goal_summary",
    "preferences_style",
    "critical_artifacts",
    "recent_history",
    "constraints",
    "task_specific_retrieval",
)


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
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 10

    embed_endpoint: str | None = None
    embed_dims: Annotated[int, Field(ge=1, le=16000)] | None = None
    embed_threads: Annotated[int, Field(ge=1, le=64)] = 1

    slm_impl: Literal["local"] = "local"

    token_budget: Annotated[int, Field(ge=256, le=1_000_000)] = 6000
    budget_weights: Annotated[dict[str, float] | None, NoDecode] = None
    auto_advance_confidence: Annotated[float, Field(ge=0.5, le=1.0)] = 0.86
    k_anonymity: Annotated[int, Field(ge=2, le=1000)] = 5
    intents_file: Path | None = None

    enable_training_data_collection: bool = False
    training_data_dir: Path | None = None
    training_file_max_mb: Annotated[float, Field(gt=0, le=10_000)] = 64.0

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

    @field_validator("embed_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("an http:// or https:// address, or unset for the built-in model")
        return value or None

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str | None) -> str | None:
        if value and not value.startswith(("postgresql://", "postgres://", "postgresql+asyncpg://")):
            raise ValueError("postgresql://USER:PASSWORD@HOST:PORT/NAME, or unset for the embedded one")
        return value or None

    @cached_property
    def training_dir(self) -> Path:
        """Where training samples are written."""
        return self.training_data_dir or self.data_dir / "training"


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


class SettingsError(ValueError):
    """The environment holds a value the service cannot run with; the message is one line per variable."""


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process. Raises SettingsError with a line per wrong variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in item['loc']).upper()}={_shown(item['input'])} is not usable: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise SettingsError("\n".join(lines)) from None


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
