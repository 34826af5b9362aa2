"""Figures about decisions, from what was shown and what was chosen."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.decisions import Decision, Stakes
from app.domain.outcomes import kept_share

CALIBRATION_BINS = 10

MOST_POLICIES = 20
"""Policies of which figures are given: those with the most sets."""

ONE_SIDED = 1.645
"""Standard deviations below which a normal figure stays 95 times of 100."""


@dataclass(frozen=True)
class Policy:
    """What made a set and its decision, as far as sets of one policy can be compared: the `version` of the rule that
    decides, None in sets of releases without one, the cost and the floor that it had; whose readings they are, by which
    prompt and adapter; and the kind of evidence that their confidences rest on, by the texts of which version."""

    version: int | None = None
    question_cost: float | None = None
    floor: float | None = None
    source: str = ""
    model: str | None = None
    prompt_version: str | None = None
    adapter: str | None = None
    evidence: str | None = None
    labels_version: str | None = None


NO_POLICY = Policy()


@dataclass(frozen=True)
class Shown:
    """One hypothesis set after the fact: confidences in shown order, the decision, what was chosen.

    `is_answered` is true once the user chose one or said that none fits; `is_undone` where what the service went ahead
    with was not what they meant; `is_first` unless it goes on from another set; `stakes` and what the decision was
    expected to be worth, where they are known; `policy` what made it, `calibration_version` by which calibration, and
    `weighed_s` and `weighed_tokens` what the model's weighing of the readings took.
    """

    confidences: tuple[float, ...]
    decision: Decision
    is_answered: bool
    chosen: int | None
    is_custom: bool = False
    is_assumed: bool = False
    is_undone: bool = False
    is_first: bool = True
    stakes: Stakes | None = None
    utility: float | None = None
    specificity: float | None = None
    user_id: str = ""
    policy: Policy = NO_POLICY
    calibration_version: int = 0
    weighed_s: float = 0.0
    weighed_tokens: int = 0

    @property
    def is_auto_advanced(self) -> bool:
        """Whether the service went ahead by itself."""
        return self.decision == "auto_advance"

    @property
    def realised(self) -> float | None:
        """What the decision was worth, as `app.domain.decisions` counts; None where that is not known (yet). What the
        service went ahead with and nobody undid was right as likely as that says (`app.domain.outcomes`)."""
        if self.stakes is None:
            return None
        if self.is_auto_advanced:
            if self.is_undone or not (self.is_answered or self.is_assumed):
                return -self.stakes.loss if self.is_undone else None
            right = 1.0 if self.is_answered else kept_share(self.confidences[0])
            return right - self.stakes.loss * (1.0 - right)
        if self.decision == "ask" and self.is_answered:
            return (1.0 if self.chosen is not None or self.is_custom else 0.0) - self.stakes.question_cost
        return None


@dataclass(frozen=True)
class Bin:
    """Hypotheses of one range of confidence: how many, what was said of them on average, what came true, and by how
    much the share that comes true varies by chance where what was said is true (a standard deviation)."""

    low: float
    high: float
    count: int
    confidence: float
    share: float
    deviation: float


@dataclass(frozen=True)
class Summary:
    """Rates in 0..1; None where nothing was observed that could tell. `chance_error` is the calibration error to be
    expected where every confidence is true, and `chance_error_high` what it stays below 95 times of 100: an error
    above that is one of the confidences, not of chance."""

    sets: int
    answered: int
    auto_advance_rate: float | None
    undo_rate: float | None
    questions_per_task: float | None
    selection_rate: float | None
    mrr: float | None
    brier: float | None
    calibration_error: float | None
    chance_error: float | None
    chance_error_high: float | None
    reliability: Sequence[Bin]
    expected_utility: float | None
    realised_utility: float | None
    weighed_ms: float | None
    weighed_tokens: float | None


def summarise(shown: Sequence[Shown]) -> Summary:
    """auto_advance_rate over all sets; undo_rate over those that the service went ahead with and of which it is known;
    questions over first sets; selection_rate (one was chosen), mean reciprocal rank of the chosen one (0 for none),
    Brier score and expected calibration error over the answered sets; expected and realised utility over the sets of
    which both are known."""
    answered = [one for one in shown if one.is_answered]
    pairs = [(confidence, one.chosen == index) for one in answered for index, confidence in enumerate(one.confidences)]
    chosen_ranks = [0.0 if one.chosen is None else 1.0 / (one.chosen + 1) for one in answered]
    gone_ahead = [one for one in shown if one.is_auto_advanced and (one.is_answered or one.is_assumed)]
    tasks = sum(one.is_first for one in shown)
    known = [(one.utility, one.realised) for one in shown if one.utility is not None and one.realised is not None]
    chance, chance_high = chance_errors([one.confidences for one in answered])
    weighed = [one for one in shown if one.weighed_s > 0.0]
    return Summary(
        sets=len(shown),
        answered=len(answered),
        auto_advance_rate=_mean([float(one.is_auto_advanced) for one in shown]),
        undo_rate=_mean([float(one.is_undone) for one in gone_ahead]),
        questions_per_task=sum(one.decision == "ask" for one in shown) / tasks if tasks else None,
        selection_rate=_mean([float(one.chosen is not None) for one in answered]),
        mrr=_mean(chosen_ranks),
        brier=_mean([(confidence - is_true) ** 2 for confidence, is_true in pairs]),
        calibration_error=calibration_error(pairs),
        chance_error=chance,
        chance_error_high=chance_high,
        reliability=reliability(answered),
        expected_utility=_mean([expected for expected, _ in known]),
        realised_utility=_mean([realised for _, realised in known]),
        weighed_ms=_mean([1000.0 * one.weighed_s for one in weighed]),
        weighed_tokens=_mean([float(one.weighed_tokens) for one in weighed]),
    )


@dataclass(frozen=True)
class OfPolicy:
    """The figures of the sets of one policy, whose confidences came from calibrations `first` to `last`."""

    policy: Policy
    first: int
    last: int
    summary: Summary


def by_policy(shown: Sequence[Shown]) -> list[OfPolicy]:
    """Figures of each policy, those with the most sets first, MOST_POLICIES at most."""
    groups: defaultdict[Policy, list[Shown]] = defaultdict(list)
    for one in shown:
        groups[one.policy].append(one)
    largest = sorted(groups.items(), key=lambda item: (-len(item[1]), repr(item[0])))[:MOST_POLICIES]
    return [
        OfPolicy(
            policy,
            min(one.calibration_version for one in sets),
            max(one.calibration_version for one in sets),
            summarise(sets),
        )
        for policy, sets in largest
    ]


def reliability(answered: Sequence[Shown]) -> list[Bin]:
    """What a reliability plot shows: what was said beside what came true, in equal-width bins, the empty ones left
    out."""
    pairs = [(confidence, one.chosen == index) for one in answered for index, confidence in enumerate(one.confidences)]
    variances = _variances([one.confidences for one in answered])
    return [
        Bin(
            place / CALIBRATION_BINS,
            (place + 1) / CALIBRATION_BINS,
            len(items),
            sum(confidence for confidence, _ in items) / len(items),
            sum(is_true for _, is_true in items) / len(items),
            math.sqrt(variances[place]) / len(items),
        )
        for place, items in sorted(_binned(pairs).items())
    ]


def chance_errors(sets: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """The calibration error to be expected of sets whose confidences are all true, and what it stays below 95 times of
    100. With few sets it is far from 0: an error can only be read beside it.

    The gap of a bin is then nearly normal around 0, with the variance of what comes true in it: its size has the mean
    sqrt(2 / pi) and the variance 1 - 2 / pi, in standard deviations. Of a set at most one comes true.
    """
    count = sum(len(each) for each in sets)
    if not count:
        return None, None
    variances = _variances(sets).values()
    mean = sum(math.sqrt(2.0 / math.pi * each) for each in variances)
    deviation = math.sqrt(sum((1.0 - 2.0 / math.pi) * each for each in variances))
    return mean / count, (mean + ONE_SIDED * deviation) / count


def _variances(sets: Sequence[Sequence[float]]) -> dict[int, float]:
    """Of how many come true in each bin, where every confidence is true."""
    variances: defaultdict[int, float] = defaultdict(float)
    for confidences in sets:
        shares: defaultdict[int, float] = defaultdict(float)
        for confidence in confidences:
            shares[_bin_of(confidence)] += confidence
        for place, share in shares.items():
            variances[place] += max(0.0, share * (1.0 - share))
    return variances


def calibration_error(pairs: Sequence[tuple[float, bool]]) -> float | None:
    """Expected calibration error over equal-width bins: the mean gap between what was said and what came
    true, weighted by how often it was said (Naeini et al. 2015)."""
    if not pairs:
        return None
    gap = sum(
        abs(sum(confidence for confidence, _ in items) - sum(is_true for _, is_true in items))
        for items in _binned(pairs).values()
    )
    return gap / len(pairs)


def _binned(pairs: Sequence[tuple[float, bool]]) -> dict[int, list[tuple[float, bool]]]:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, is_true in pairs:
        bins.setdefault(_bin_of(confidence), []).append((confidence, is_true))
    return bins


def _bin_of(confidence: float) -> int:
    return min(CALIBRATION_BINS - 1, int(confidence * CALIBRATION_BINS))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
