"""Shapes of telemetry."""

from datetime import datetime

from app.api.schemas import Response


class ReliabilityBin(Response):
    """Hypotheses of one range of confidence: how many, what was said of them on average, and the share that was
    meant, with the standard deviation that it has by chance where what was said is true."""

    low: float
    high: float
    count: int
    confidence: float
    share: float
    deviation: float


class Figures(Response):
    """Rates; null where nothing was observed. `undo_rate`: of what the service went ahead with, what was not meant;
    utilities in right acts, over the sets of which both are known. `chance_calibration_error` is the error to be
    expected where every confidence is true, and `…_high` what it stays below 95 times of 100; `weighed_ms` and
    `weighed_tokens` what the model's weighing of readings took; `reliability` for a plot."""

    sets: int
    answered: int
    auto_advance_rate: float | None
    undo_rate: float | None
    questions_per_task: float | None
    selection_rate: float | None
    mrr: float | None
    brier: float | None
    calibration_error: float | None
    chance_calibration_error: float | None
    chance_calibration_error_high: float | None
    reliability: list[ReliabilityBin]
    expected_utility: float | None
    realised_utility: float | None
    weighed_ms: float | None
    weighed_tokens: float | None


class Policy(Response):
    """What made sets and their decisions: the version of the rule, its cost of a question and its floor; whose readings
    they are; and what their confidences rest on, `score`, `label` or `nearness`."""

    version: int | None
    question_cost: float | None
    floor: float | None
    source: str
    model: str | None
    prompt_version: str | None
    adapter: str | None
    evidence: str | None
    labels_version: str | None


class PolicyOut(Figures):
    """The figures of one policy's sets; their confidences came from calibrations of the first to the last of
    `calibration_versions`."""

    policy: Policy
    calibration_versions: list[int]


class TelemetryOut(Figures):
    """Figures since a moment, over all sets and of each policy, those with the most sets first."""

    since: datetime
    calibration_version: int
    policies: list[PolicyOut]
