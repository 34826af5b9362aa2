"""Trials of a second embedding space: who is in which arm, and what the arms' outcomes say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.domain.deployments import chance_of, place
from app.domain.errors import InvalidInput

Status = Literal["filling", "running", "ended"]
Verdict = Literal["keep_running", "better", "not_better", "worse"]

METRICS: Mapping[str, str] = {
    "selection": "share of the answered hypothesis sets of which a reading was selected",
    "use": "share of the executions that used a memory found for them (not one that every prompt has)",
    "success": "share of the judged executions that the user was content with",
}
"""What users do that shows whether the right memories were found."""

ALPHA = 0.05
"""How often two spaces that are equally good may ever be called different, by all metrics together, however often the
figures were looked at."""

LEAST_USERS = 20
"""Users with outcomes that either arm needs before a variance between users can be told."""

LEAST_GAIN = 0.02
"""A gain below this is none worth a change of space."""

Sums = NDArray[np.float64]
"""Shape (users, 2): hits and tries of each user."""


@dataclass(frozen=True)
class Trial:
    """A second embedding space beside the one that serves: of `share` of the users, as its endpoint makes it."""

    trial_id: str
    endpoint: str
    space: str
    dimension: int
    serving_space: str
    share: float
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidInput("share is above 0 and below 1: both arms need users.", field="share")

    def has(self, user_id: str) -> bool:
        """Whether a user is in the trial's arm, for as long as it lasts."""
        return place(self.trial_id, user_id) < self.share


@dataclass(frozen=True)
class Outcomes:
    """What one user did since the trial began: (hits, tries) by metric."""

    user_id: str
    counts: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ArmFigure:
    """A metric of one arm: users with outcomes, their tries, and how many were hits."""

    users: int
    tries: int
    hits: int

    @property
    def rate(self) -> float | None:
        """Hits by tries; None without a try."""
        return self.hits / self.tries if self.tries else None


@dataclass(frozen=True)
class Compared:
    """A metric of both arms. `low` and `high` are the interval of the difference for whoever looks once; `chance` is an
    always-valid p-value of "the arms are equal"."""

    metric: str
    serving: ArmFigure
    candidate: ArmFigure
    chance: float
    low: float | None = None
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """The candidate's rate less the serving space's."""
        if self.candidate.rate is None or self.serving.rate is None:
            return None
        return self.candidate.rate - self.serving.rate

    @property
    def is_certain(self) -> bool:
        """Whether the arms differ, as certainly as ALPHA asks for all metrics together."""
        return self.chance < ALPHA / len(METRICS)


@dataclass(frozen=True)
class Advice:
    """What to do about a trial, in a word and in a sentence."""

    verdict: Verdict
    sentence: str


def sums_of(trial: Trial, outcomes: Sequence[Outcomes], metric: str) -> tuple[Sums, Sums]:
    """(serving, candidate) sums of the users with tries in a metric, each by the arm they were put into, whatever
    became of their searches (intention to treat)."""
    arms: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for one in outcomes:
        hits, tries = one.counts[metric]
        if tries:
            arms[trial.has(one.user_id)].append((hits, tries))
    serving, candidate = (np.array(arm, dtype=np.float64).reshape(-1, 2) for arm in arms)
    return serving, candidate


def figure_of(sums: Sums) -> ArmFigure:
    """The figures of an arm."""
    hits, tries = sums.sum(axis=0)
    return ArmFigure(len(sums), int(tries), int(hits))


def chance_of_no_difference(serving: Sums, candidate: Sums) -> float:
    """An always-valid p-value of "both arms have the same rate": as `deployments.chance_of_drop`, in either direction,
    with the variance between users, because a user's outcomes are alike. 1 below LEAST_USERS in either arm."""
    if min(len(serving), len(candidate)) < LEAST_USERS:
        return 1.0
    rates = [arm[:, 0].sum() / arm[:, 1].sum() for arm in (serving, candidate)]
    pooled = (serving[:, 0].sum() + candidate[:, 0].sum() + 1) / (serving[:, 1].sum() + candidate[:, 1].sum() + 2)
    variance = sum(_variance(arm, rate, pooled) for arm, rate in zip((serving, candidate), rates, strict=True))
    return chance_of(float(rates[1] - rates[0]), float(variance))


def _variance(sums: Sums, rate: float, pooled: float) -> float:
    """The variance of a ratio of sums over users, by linearisation (Cochran 1977, "Sampling Techniques", 6.3); never
    below that of independent tries, which few users may seem to undercut."""
    users, tries = len(sums), sums[:, 1].sum()
    residuals = sums[:, 0] - rate * sums[:, 1]
    between = (residuals**2).sum() / tries**2 * users / (users - 1)
    return max(float(between), pooled * (1 - pooled) / tries)


def advise(figures: Sequence[Compared]) -> Advice:
    """What to do: a space that is worse for sure at anything is stopped; one that is better for sure at something, and
    at nothing worse, is worth the switch; one that can hardly be better by LEAST_GAIN is not."""
    certain = [one for one in figures if one.is_certain and one.difference is not None]
    worse = [one for one in certain if one.difference is not None and one.difference < 0]
    better = [one for one in certain if one.difference is not None and one.difference > 0]
    if worse:
        return Advice("worse", f"The candidate is worse: stop the trial. {_said(worse)}")
    if better:
        return Advice("better", f"The candidate is better: it is worth the switch. {_said(better)}")
    known = [one for one in figures if min(one.serving.users, one.candidate.users) >= LEAST_USERS]
    if not known:
        return Advice(
            "keep_running",
            f"Keep it running: nothing can be told before {LEAST_USERS} users of each arm have answered, executed or "
            "judged something.",
        )
    if all(one.high is not None and one.high < LEAST_GAIN for one in known):
        return Advice(
            "not_better",
            f"The candidate is not better: a gain of {100 * LEAST_GAIN:g} points or more is outside of every interval. "
            "Stop the trial.",
        )
    return Advice("keep_running", "Keep it running: the arms do not differ for sure yet, and may.")


def _said(figures: Sequence[Compared]) -> str:
    return " ".join(
        f"{one.metric.capitalize()}: {one.candidate.rate:.1%} of {one.candidate.tries} against {one.serving.rate:.1%} "
        f"of {one.serving.tries}."
        for one in figures
    )
