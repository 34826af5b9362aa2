"""What a bundle is built of: data, base model, knobs. Flags and a configuration file name the same fields."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.domain.errors import InvalidInput

KNOBS = (
    "learning_rate",
    "epochs",
    "max_steps",
    "batch_size",
    "gradient_accumulation",
    "max_length",
    "lora_rank",
    "lora_alpha",
    "seed",
)
"""The hyper-parameters among the fields, under the names that every training of the service gives them."""

HUB_ID = r"[\w.-]+(/[\w.-]+)?(:[\w.\[\]%-]+)?"
"""A data set of the hub: ORGANISATION/NAME, and :SPLIT where it is not `train`."""


class BundlePlan(BaseModel):
    """A build, as it was asked for. Exactly one of `dataset_path` and `dataset_id`, at most one of the two for
    evaluation; paths count from where the command is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset_path: Path | None = None
    dataset_id: Annotated[str, Field(pattern=f"^{HUB_ID}$")] | None = None
    eval_dataset_path: Path | None = None
    eval_dataset_id: Annotated[str, Field(pattern=f"^{HUB_ID}$")] | None = None
    base_model: Annotated[str, Field(min_length=1)] | None = None
    run_name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    output: Path | None = None
    registry_path: Path | None = None
    tenant: Annotated[str, Field(min_length=1)] = "default"
    near_duplicate: Annotated[float, Field(ge=0.5, le=1)] = 0.8
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    max_steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    gradient_accumulation: Annotated[int, Field(ge=1)] | None = None
    max_length: Annotated[int, Field(ge=16)] | None = None
    lora_rank: Annotated[int, Field(ge=1)] | None = None
    lora_alpha: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if (self.dataset_path is None) == (self.dataset_id is None):
            raise ValueError("name one of --dataset-path and --dataset-id")
        if self.eval_dataset_path is not None and self.eval_dataset_id is not None:
            raise ValueError("name one of --eval-dataset-path and --eval-dataset-id")
        return self

    def knobs(self) -> dict[str, Any]:
        """The hyper-parameters that were named; the training's own defaults hold for the others."""
        return {name: value for name in KNOBS if (value := getattr(self, name)) is not None}


def merged(configured: Mapping[str, object], flags: Mapping[str, object]) -> BundlePlan:
    """The plan of a configuration file's fields (`run-name` or `run_name`) and of the flags that were given (None: it
    was not), which win. A flag for the file replaces a hub's data set in the configuration, and the other way round.
    Raises InvalidInput, one line."""
    values = {str(name).replace("-", "_"): value for name, value in configured.items()}
    given = {name: value for name, value in flags.items() if value is not None}
    for one, other in (("dataset_path", "dataset_id"), ("eval_dataset_path", "eval_dataset_id")):
        for name, rival in ((one, other), (other, one)):
            if name in given and rival not in given:
                values.pop(rival, None)
    try:
        return BundlePlan.model_validate({**values, **given})
    except ValidationError as error:
        raise InvalidInput(_line(error)) from None


def _line(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"{message}."
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"{name} is no field of a bundle: the fields are {', '.join(BundlePlan.model_fields)}."
    flag = f"--{name.replace('_', '-')}"
    if first["type"] == "string_pattern_mismatch":
        return f"{flag} {first['input']} is not usable: a hub's data set is ORGANISATION/NAME, or that with :SPLIT."
    return f"{flag} {first['input']} is not usable: {message}."
