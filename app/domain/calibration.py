"""Calibration: features of hypotheses become probabilities that are true as often as they say.

The hypotheses of one input and "none of these" are one distribution,

    p_i = exp(w · x_i) / (exp(b) + sum_j exp(w · x_j)),      p_none = exp(b) / (the same),

with x_i what is known of hypothesis i: for the local rules one raw score (a log-odds), for a language model the
log-odds that it gives to the label of the reading, or, where its server tells no probabilities, how near the reading
is to the input by embedding; never a number that a model wrote. `w` and `b` are fitted per tenant and source of
hypotheses on what users chose, by maximum a posteriori with Gaussian priors around the prior calibration, so that few
outcomes move them little. See Guo et al. 2017, "On Calibration of Modern Neural Networks", for the temperature (the
inverse of a single weight); the whole is McFadden's conditional logit with an outside option, whose log-likelihood is
concave.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.domain.position import PRIOR_EXAMINATION, Examination

Features = Mapping[str, float]

LOCAL = "local"
MODEL = "model"

SCORE, LABEL, NEARNESS, WORDS = "score", "label", "nearness", "likelihood"
"""Kinds of evidence: each hypothesis has one of them."""

FORM = {LOCAL: 1, MODEL: 2}
"""Counts the forms that the features of a source have had. What was fitted on another form is no calibration of this
one: form 1 of a model read the confidence that it wrote."""

_PRIOR_SD = {SCORE: 0.35, LABEL: 0.35, NEARNESS: 2.0, WORDS: 0.5}
_PRIOR_SD_NONE = 0.7
_LEAST_WEIGHT = 0.02
"""A feature may turn out to say next to nothing, but more of it never makes a hypothesis less likely."""
_STEPS = 50

TYPICAL_LOGPROB = -0.4
"""Nats per token of an ordinary sentence of a small model: the zero of the evidence `likelihood`."""

TYPICAL_COSINE = 0.4
"""Of an input and a reading of something else: the zero of the evidence `nearness`."""


@dataclass(frozen=True)
class Calibration:
    """Parameters of the distribution above for one source; `version` counts the fits of one tenant and source, 0 is
    the prior. `prior` is the version of the prior that it was fitted around, 0 the shipped one."""

    weights: Features = field(default_factory=lambda: {SCORE: 1.0})
    none_score: float = 0.4
    version: int = 0
    outcomes: int = 0
    prior: int = 0
    examination: Examination = PRIOR_EXAMINATION
    """How likely each place of a list was looked at by the choices it was fitted on."""


PRIOR = Calibration()

MODEL_PRIOR = Calibration({LABEL: 0.7, NEARNESS: 4.0}, 0.0)
"""A model is surer of its labels than it is right: a temperature of 1.4 before any outcome. What it writes about its
own confidence says nothing (on CLAMBER's predictions its AUROC for being right is 0.5) and is not read."""

WORDS_PRIOR = Calibration({WORDS: 1.0}, 0.0)
"""Of how likely a model found the words of a reading, where a client has no more than these."""


@dataclass(frozen=True)
class Outcome:
    """What a user did with one hypothesis set: the features of those shown, and the index of the chosen one, or
    None where the user said none of them was meant. `likelihood` is how likely what they did is for each that may be
    meant, the last one "none of these" (`app.domain.outcomes`); None: `chosen` is what they meant, for sure."""

    features: tuple[Features, ...]
    chosen: int | None
    likelihood: tuple[float, ...] | None = None


def prior_of(source: str) -> Calibration:
    """The calibration of a source (`local`, else a language model) before any outcome."""
    return PRIOR if source == LOCAL else MODEL_PRIOR


def form_of(source: str) -> int:
    """The form of a source's features."""
    return FORM[LOCAL if source == LOCAL else MODEL]


def is_read(features: Features, prior: Calibration) -> bool:
    """Whether a calibration of this prior's form reads features, and all of them."""
    return bool(features) and features.keys() <= prior.weights.keys()


def label_features(log_odds: float) -> dict[str, float]:
    """Evidence of a model's reading: the log-odds that it gives to its label against that of "none of these"."""
    return {LABEL: log_odds}


def nearness_features(cosine: float) -> dict[str, float]:
    """Evidence of a model's reading by embedding: its cosine to the input, from TYPICAL_COSINE."""
    return {NEARNESS: cosine - TYPICAL_COSINE}


def words_features(mean_logprob: float | None) -> dict[str, float]:
    """Evidence of a model's reading by its words: their mean log-probability per token, in nats, from TYPICAL_LOGPROB;
    0 where the server gives none."""
    return {WORDS: 0.0 if mean_logprob is None else max(-3.0, mean_logprob - TYPICAL_LOGPROB)}


def score(features: Features, calibration: Calibration = PRIOR) -> float:
    """w · x; a feature the calibration does not know counts nothing."""
    return sum(calibration.weights.get(name, 0.0) * value for name, value in features.items())


def probabilities(features: Sequence[Features], calibration: Calibration = PRIOR) -> list[float]:
    """The probability of each hypothesis, in order; they sum to less than 1, the rest is "none of these", which
    is never ruled out entirely."""
    logits = [score(each, calibration) for each in features]
    top = max([*logits, calibration.none_score])
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights) + max(1e-9, math.exp(calibration.none_score - top))
    return [weight / total for weight in weights]


def fit(outcomes: Sequence[Outcome], version: int, prior: Calibration = PRIOR) -> Calibration:
    """The calibration most probable after `outcomes`, by damped Newton steps on the weights and `none_score`; where
    outcomes leave open what was meant, by the curvature of the whole (EM's, which the loss never exceeds).

    With no outcomes it equals `prior` but for the version.
    """
    names = sorted(prior.weights)
    if not outcomes:
        return Calibration(dict(prior.weights), prior.none_score, version, 0, prior.prior)
    shown, is_there, told = _arrays(outcomes, names)
    centre: NDArray[np.float64] = np.array([*(prior.weights[name] for name in names), prior.none_score])
    precision = 1.0 / np.array([*(_PRIOR_SD[name] for name in names), _PRIOR_SD_NONE]) ** 2
    at = centre.copy()
    loss, gradient, curvature = _slopes(at, centre, precision, shown, is_there, told)
    for _ in range(_STEPS):
        step = np.linalg.solve(curvature, gradient)
        scale = 1.0
        while scale > 1e-4:
            moved: NDArray[np.float64] = (at - scale * step).astype(np.float64)
            moved[:-1] = np.maximum(moved[:-1], _LEAST_WEIGHT)
            tried = _slopes(moved, centre, precision, shown, is_there, told)
            if tried[0] <= loss:
                break
            scale *= 0.5
        else:
            break
        at = moved
        gained, (loss, gradient, curvature) = loss - tried[0], tried
        if gained < 1e-9:
            break
    weights = {name: float(value) for name, value in zip(names, at, strict=False)}
    return Calibration(weights, float(at[-1]), version, len(outcomes), prior.prior)


def _arrays(
    outcomes: Sequence[Outcome], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """(features of every alternative, which alternatives there are, the log-likelihood of what was done where each is
    meant): shapes (n, k + 1, f + 1), (n, k + 1) and (n, k + 1). The last alternative is "none of these", whose only
    feature is a constant of its own."""
    width = max(len(outcome.features) for outcome in outcomes)
    shown = np.zeros((len(outcomes), width + 1, len(names) + 1))
    is_there = np.zeros((len(outcomes), width + 1), dtype=np.bool_)
    told = np.full((len(outcomes), width + 1), -np.inf)
    shown[:, width, -1] = 1.0
    is_there[:, width] = True
    for row, outcome in enumerate(outcomes):
        size = len(outcome.features)
        for column, features in enumerate(outcome.features):
            shown[row, column, :-1] = [features.get(name, 0.0) for name in names]
            is_there[row, column] = True
        if outcome.likelihood is None:
            told[row, width if outcome.chosen is None else outcome.chosen] = 0.0
        else:
            told[row, [*range(size), width]] = np.log(outcome.likelihood)
    return shown, is_there, told


def _slopes(
    at: NDArray[np.float64],
    centre: NDArray[np.float64],
    precision: NDArray[np.float64],
    shown: NDArray[np.float64],
    is_there: NDArray[np.bool_],
    told: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """(negative log posterior up to a constant, its gradient, its Hessian or, where outcomes leave open what was meant,
    a bound of it)."""
    logits = np.where(is_there, shown @ at, -np.inf)
    share, total = _shares(logits)
    meant, likely = _shares(logits + told)
    offset = at - centre
    loss = float((total - likely).sum() + 0.5 * (precision * offset**2).sum())
    expected = np.einsum("na,naf->nf", share, shown)
    gradient = (expected - np.einsum("na,naf->nf", meant, shown)).sum(axis=0) + precision * offset
    second = np.einsum("na,naf,nag->fg", share, shown, shown) - np.einsum("nf,ng->fg", expected, expected)
    return loss, gradient, second + np.diag(precision)


def _shares(logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(softmax of each row, log of the sum of its exponentials)."""
    total: NDArray[np.float64] = np.logaddexp.reduce(logits, axis=1)
    return np.exp(logits - total[:, None]), total
