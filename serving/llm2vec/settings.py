"""The settings of the unified runtime: `settings.model.*`, in the environment `MODEL__QUANTIZE_4BIT` and so on.

No `.env` file is read: that of the service beside it would answer for variables of the same names.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableVariable

from serving.llm2vec.manifest import DType
from serving.settings import SettingsError, usable_cores


class ModelSettings(BaseModel):
    """How a checkpoint is loaded and how much it may be asked. What is unset is as the checkpoint's manifest says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantize_4bit: bool | None = None
    """Weights of 4 bits, on CUDA; the CPU never quantizes."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] | None = None
    bnb_4bit_compute_dtype: DType | None = None
    bnb_4bit_use_double_quant: bool | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Of weights that are not quantized."""
    prefer_merged: bool = False
    """The merged weights even where 4 bits are asked for and there are adapters."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Cores that a run of the model uses on the CPU; unset: all."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Most tokens of an answer, whatever is asked for."""
    queue: Annotated[int, Field(ge=0, le=1024)] = 8
    """Chats that wait while one is answered; beyond that 429."""

    @property
    def cores(self) -> int:
        """How many cores a run uses: `threads`, or all that this process may use."""
        return self.threads or usable_cores()


class RuntimeSettings(BaseSettings):
    """One group, `model`; an empty value counts as unset."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", env_ignore_empty=True, extra="ignore", frozen=True)

    model: ModelSettings = ModelSettings()


def load_runtime_settings(**model: Any) -> RuntimeSettings:
    """The settings of this process; `model` are fields that win over the environment. Raises SettingsError with a
    line per wrong variable."""
    try:
        return RuntimeSettings(model=model) if model else RuntimeSettings()  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_line(item["loc"], item["input"], item["msg"]) for item in error.errors())
        ) from None
    except UnreadableVariable as error:
        raise SettingsError(f"{error}: it may be a JSON object, or use MODEL__NAME") from None


def _line(location: tuple[int | str, ...], value: object, message: str) -> str:
    name = "__".join(str(part) for part in location).upper()
    said = "there is no such setting" if message.startswith("Extra inputs") else message
    return f"{name}={value!r} is not usable: {said}"
