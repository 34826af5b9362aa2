"""The only reader of the environment in `serving`: the `SERVE_*` variables, and `.env`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SERVE_"


class ServeSettings(BaseSettings):
    """One field per variable: `batch_size` is `SERVE_BATCH_SIZE`. An empty value counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    model: Path | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 64
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    normalize: bool = False
    backend: Literal["auto", "onnx", "openvino", "sentence-transformers"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    queue_tokens: Annotated[int, Field(ge=1, le=100_000_000)] = 400_000

    @property
    def cores(self) -> int:
        """How many cores one run of the model uses: `threads`, or all that this process may use."""
        return self.threads or usable_cores()


class SettingsError(ValueError):
    """A value the server cannot run with; the message is one line per variable."""


def load_settings(**flags: Any) -> ServeSettings:
    """The settings of this process; `flags` win over the environment. Raises SettingsError."""
    try:
        return ServeSettings(**flags)
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_line(item["loc"], item["input"], item["msg"]) for item in error.errors())
        ) from None


def _line(location: tuple[int | str, ...], value: object, message: str) -> str:
    name = "_".join(str(part) for part in location).upper().removeprefix(PREFIX)
    return f"{PREFIX}{name}={value!r} is not usable: {message}"


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
