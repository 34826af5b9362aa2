"""Training runs: what they are called, what they are trained on, and which of them may be judged."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from app.domain.datasets import DATASETS
from app.domain.deployments import Route
from app.domain.errors import InvalidInput, NotReady

Status = Literal["training", "trained", "failed", "accepted", "refused"]

RUN_ID = r"(?:sft|dpo|reward|grpo)-\d{8}t\d{6}-[0-9a-f]{10}"
"""A run, its folder and its adapter have one name. It tells no tenant's, and is not to be guessed."""

_RUN_ID = re.compile(RUN_ID)

_DATASETS_OF: Mapping[str, tuple[str, ...]] = {
    "sft": ("hypotheses", "facets", "rerank"),
    "grpo": ("hypotheses",),
    "dpo": ("preferences",),
    "reward": ("preferences",),
}
"""The datasets whose rows have a method's shape, by the names they are asked for; the first is its own."""

RESUMABLE = ("training", "failed")
"""What a run is that was broken off."""


def new_run_id(method: str, now: datetime, token: str) -> str:
    """The name of a run that begins `now`; `token` are ten random hexadecimal digits."""
    return f"{method}-{now:%Y%m%dt%H%M%S}-{token}"


def is_run_id(name: str) -> bool:
    """Whether a folder's name is one of a run."""
    return _RUN_ID.fullmatch(name) is not None


def dataset_for(method: str, asked: str | None = None) -> str:
    """The dataset's file, without `.jsonl`, that a method is trained on. Raises InvalidInput for one whose rows it
    cannot read."""
    fitting = _DATASETS_OF[method]
    if asked is not None and asked not in fitting:
        raise InvalidInput(f"{method} is trained on {' or '.join(fitting)}.", "dataset")
    return DATASETS[asked or fitting[0]]


def check_judgeable(run_id: str, method: str, status: str) -> None:
    """Raise NotReady unless a run can be judged; it may be judged again."""
    if method == "reward":
        raise NotReady(f"{run_id} rates answers and writes none: use it with --reward-model to judge another run.")
    if status in RESUMABLE:
        raise NotReady(f"{run_id} is not trained to its end: embed-service train run --resume {run_id}")


def answered_share(route: Route, run_id: str) -> float:
    """The share of a tenant's users whom a run answers, 0..1."""
    if route.candidate == run_id:
        return route.share
    if route.stable != run_id:
        return 0.0
    return 1.0 if route.candidate is None else 1.0 - route.share
