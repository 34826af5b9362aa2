"""The settings of the deployments: `RAY_*` variables and `.env`, read by whoever deploys and sent to the replicas.

Groups are nested: `embedding.max_replicas` is the variable `RAY_EMBEDDING__MAX_REPLICAS`. How a replica runs its model
is said by `SERVE_*`, and of the runtime by `MODEL__*`, as without Ray.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableVariable

from serving.settings import SettingsError

PREFIX = "RAY_"

Count = Annotated[int, Field(ge=1, le=1000)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class DeploymentSettings(BaseModel):
    """One deployment: its base model, how many replicas there are of it, and what each one takes of its node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = None
    """The folder that is served while no adapter is current; the same path on every node."""
    follow: bool = True
    """Whether it serves what the adapter registry calls current."""
    min_replicas: Count = 1
    max_replicas: Count = 2
    target_ongoing_requests: Annotated[float, Field(gt=0, le=10_000)] = 8.0
    """Requests a replica is meant to have at a time: more bring another replica, fewer take one away."""
    upscale_delay_s: Seconds = 30.0
    downscale_delay_s: Seconds = 600.0
    cpus: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Of the node, for one replica; set aside, not enforced."""
    gpus: Annotated[float, Field(ge=0, le=1000)] = 0.0

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is less than min_replicas={self.min_replicas}")
        return self


class RaySettings(BaseSettings):
    """One field per variable; an empty value counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=1, le=65535)] = 8000
    proxies: Literal["every", "head"] = "every"
    """Where HTTP is listened for: on every node with a replica, or on the head node."""
    watch_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """How often a replica looks whether the adapter registry has changed."""
    adapter_registry: Annotated[Path | None, Field(validation_alias=AliasChoices("LLM_ADAPTER_REGISTRY_PATH"))] = None
    local_models_dir: Annotated[Path, Field(validation_alias=AliasChoices("LOCAL_MODELS_DIR"))] = Path("local-models")
    embedding: DeploymentSettings = DeploymentSettings()
    runtime: DeploymentSettings = DeploymentSettings()

    @property
    def registry_path(self) -> Path:
        """The adapter registry, where the service has it; absolute."""
        return (self.adapter_registry or self.local_models_dir / "adapters.json").absolute()


def load_ray_settings(**overrides: Any) -> RaySettings:
    """The settings of this process. Raises SettingsError with a line per wrong variable."""
    try:
        return RaySettings(**overrides)
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_line(item["loc"], item["input"], item["msg"]) for item in error.errors())
        ) from None
    except UnreadableVariable as error:
        raise SettingsError(f"{error}: it may be a JSON object, or use RAY_EMBEDDING__NAME and so on") from None


def _line(location: tuple[int | str, ...], value: object, message: str) -> str:
    name = "__".join(str(part) for part in location).upper()
    name = name if name in {"LLM_ADAPTER_REGISTRY_PATH", "LOCAL_MODELS_DIR"} else PREFIX + name
    said = message.removeprefix("Value error, ")
    if said.startswith("Extra inputs"):
        said = "there is no such setting"
    shown = f"={value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{name}{shown} is not usable: {said}"
