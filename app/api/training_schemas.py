"""The shapes of requests and answers about training."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints

from app.api.schemas import NO_CONTROL, WHOLE, Request, Response
from app.domain.deployments import Arm
from app.domain.runs import RUN_ID
from app.services.deployments import DeploymentStatus
from app.services.training.preparations import State
from app.services.training.runs import Run
from app.services.training.scripts import Method, TrainingOptions
from app.store.training import Deployment

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
From0 = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000), WHOLE]
Tokens = Annotated[int, Field(ge=16, le=1_000_000), WHOLE]
RunId = Annotated[str, StringConstraints(pattern=f"^{RUN_ID}$")]
ModelName = Annotated[
    str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
]
"""A hub's name, or that of a folder in LOCAL_MODELS_DIR; never a path."""

FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=NO_CONTROL)]


class TrainingStatsOut(Response):
    """Training samples by file."""

    hypotheses_count: int
    persona_updates_count: int
    ranking_samples_count: int
    feedback_count: int
    preferences_count: int


class DatasetsIn(Request):
    """What a preparation may be told; `dry_run` writes nothing."""

    dry_run: bool = False
    heldout_share: Share = 0.1
    later_share: Share = 0.1
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] = 2048
    max_per_user: Count | None = None
    near_duplicate: Annotated[float, Field(ge=0.5, le=1, allow_inf_nan=False)] = 0.8

    def flags(self) -> list[str]:
        """As options of `embed-service train datasets`."""
        given: dict[str, Any] = self.model_dump(exclude={"dry_run"}, exclude_none=True)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        return [*flags, "--dry-run"] if self.dry_run else flags


class SummaryOut(Response):
    """How datasets were made and what they hold: by dataset what was dropped, by file what is there."""

    prompt_version: str
    tokenizer: str
    seconds: float
    options: dict[str, float | None]
    cut_at: str | None
    users: dict[str, int]
    datasets: dict[str, dict[str, Any]]
    files: dict[str, dict[str, Any]]
    erasures: int

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Self:
        """Of a summary's document, without what tells of other tenants' files."""
        return cls(**{name: summary[name] for name in cls.model_fields})


class DatasetsOut(Response):
    """`preparing`: look again later. `summary` is that of the datasets there are, or of the trial asked for."""

    status: State
    summary: SummaryOut | None


class OptionsIn(Request):
    """The hyper-parameters of a training; null is the method's own default."""

    learning_rate: Above0 | None = None
    epochs: Above0 = 2.0
    max_steps: Count | None = None
    batch_size: Count = 4
    gradient_accumulation: Count = 4
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: Share = 0.05
    weight_decay: From0 = 0.01
    max_length: Tokens = 2048
    seed: Annotated[int, Field(ge=0, lt=2**32), WHOLE] = 42
    lora_rank: Annotated[int, Field(ge=1, le=1024), WHOLE] = 16
    lora_alpha: Count = 32
    lora_dropout: Share = 0.0
    load_in_4bit: bool = True
    gradient_checkpointing: bool = True
    evaluate_every: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.1
    evaluate_rows: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] = 200
    patience: Count = 3
    beta: From0 | None = None
    generations: Annotated[int, Field(ge=2, le=1024), WHOLE] = 4
    max_answer: Count = 512
    temperature: Above0 = 1.0
    export_merged: bool = True
    export_gguf: bool = False

    def options(self) -> TrainingOptions:
        """As the script's generator takes them."""
        names = {field.name for field in fields(TrainingOptions)}
        return TrainingOptions(**self.model_dump(include=names))


class ScriptIn(Request):
    """The training that a script is for. `dataset` is the method's own by default, `model` the one that is served;
    `output` names a new folder in LOCAL_MODELS_DIR; `reward_model` a trained reward run, for `grpo`."""

    method: Method = "sft"
    dataset: Literal["hypotheses", "preferences", "facets", "rerank"] | None = None
    model: ModelName | None = None
    output: FolderName | None = None
    reward_model: RunId | None = None
    options: OptionsIn = OptionsIn()


class ScriptOut(Response):
    """Where the script is, and what it says."""

    path: str
    script: str


class RunOut(Response):
    """A training run: status `training`, `trained`, `failed`, `accepted` or `refused`; `answers` is the share of the
    users whom its adapter answers now."""

    run_id: str
    method: str
    base_model: str
    status: str
    created_at: datetime
    finished_at: datetime | None
    answers: float
    erased_users: int
    metadata: dict[str, Any]
    judgement: dict[str, Any] | None

    @classmethod
    def of(cls, run: Run) -> Self:
        """Of a run, without the place of its folder."""
        return cls(**{name: getattr(run, name) for name in cls.model_fields})


class RunsOut(Response):
    """Runs, newest first."""

    runs: list[RunOut]


class PromoteIn(Request):
    """For which share of the users, 1 for all; a canary's share by default."""

    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None


class RollbackIn(Request):
    """Why; it is kept in the history."""

    reason: Reason = "asked for over HTTP"


class DeploymentOut(Response):
    """A change of route: `serving` answers all but the `share` of the users whom `canary` answers; null is the base
    model, or no canary."""

    number: int
    action: str
    adapter: str
    serving: str | None
    canary: str | None
    share: float
    reason: str
    deployed_at: datetime

    @classmethod
    def of(cls, made: Deployment) -> Self:
        """Of a deployment."""
        return cls(
            number=made.number,
            action=made.action,
            adapter=made.adapter,
            serving=made.route.stable,
            canary=made.route.candidate,
            share=made.route.share,
            reason=made.reason,
            deployed_at=made.deployed_at,
        )


class ArmOut(Response):
    """What users did with the sets of one adapter."""

    answered: int
    selected: int
    rate: float

    @classmethod
    def of(cls, arm: Arm) -> Self:
        """Of an arm."""
        return cls(answered=arm.answered, selected=arm.selected, rate=arm.rate)


class RouteOut(Response):
    """Who is answered by what, and both arms of a canary's trial `since` a moment. `chance_of_drop`: how likely the
    canary would look that much worse if it were not."""

    serving: str | None
    canary: str | None
    share: float
    since: datetime | None
    arms: dict[str, ArmOut]
    chance_of_drop: float

    @classmethod
    def of(cls, now: DeploymentStatus) -> Self:
        """Of a deployment's state."""
        return cls(
            serving=now.route.stable,
            canary=now.route.candidate,
            share=now.route.share,
            since=now.since,
            arms={"serving": ArmOut.of(now.serving), "canary": ArmOut.of(now.canary)},
            chance_of_drop=now.chance_of_drop,
        )


class DeploymentsOut(Response):
    """What holds now, and the changes, newest first."""

    now: RouteOut
    history: list[DeploymentOut]
