"""The hyper-parameters of a training as options of a command: one for each field of TrainingOptions."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, cast, get_type_hints

import typer

from app.services.training.scripts import TrainingOptions

GIVEN_OTHERWISE = frozenset({"grpo_rewards", "reward_model_path"})
"""Fields that follow from a reward run, which is named by its own option."""


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `options` becomes one that takes every field of it as an option."""
    types = get_type_hints(TrainingOptions)
    fields = [field for field in dataclasses.fields(TrainingOptions) if field.name not in GIVEN_OTHERWISE]
    names = [field.name for field in fields]

    @wraps(command)
    def whole(**given: Any) -> None:
        values = {name: given.pop(name) for name in names}
        command(options=TrainingOptions(**values), **given)

    own = inspect.signature(command, eval_str=True).parameters.values()
    added = [_parameter(field.name, types[field.name], field.default) for field in fields]
    kept = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own if each.name != "options"]
    parameters = [*kept, *added]
    described = cast(Any, whole)
    described.__signature__ = inspect.Signature(parameters)
    described.__annotations__ = {each.name: each.annotation for each in parameters}
    return whole


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    about = typer.Option(help="The method's own where absent." if default is None else None, rich_help_panel="Training")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about])
