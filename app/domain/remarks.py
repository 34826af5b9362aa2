"""What people say of their tastes, as one more likelihood.

A remark is split into clauses, each with a tone from -1 (dislikes) to 1 (likes) read from common words; what is said
without one is wanted, and what something is preferred to is not. How words and pairs of words, with their tone, speak
of a trait is learned from people whose tastes are known: for each trait from the terms alone that go with it more than
chance would have it (sure independence screening, Fan and Lv 2008), by a ridge regression. How far a prediction can be
trusted grows with how much it says.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from app.domain.logit import Array, solved
from app.domain.questions import spoken_words
from app.domain.tastes import Comparison, Remark, TastePrior, taste_of
from app.domain.wording import stem

_LIKES = {
    **dict.fromkeys("love loves best favorite favourite".split(), 1.0),
    **dict.fromkeys("definitely".split(), 0.8),
    **dict.fromkeys("favor like likes prefer preferred want need good great nice enjoy better".split(), 0.7),
    **dict.fromkeys("preference rather important".split(), 0.6),
    **dict.fromkeys("please go yes care fan pick choose top ideal looking first".split(), 0.5),
    **dict.fromkeys("ok okay fine".split(), 0.3),
}
_DISLIKES = {
    **dict.fromkeys("hate hates worst terrible".split(), 1.0),
    **dict.fromkeys("avoid bad never".split(), 0.8),
    **dict.fromkeys("dislike dislikes worse".split(), 0.7),
    **dict.fromkeys("without".split(), 0.5),
}
_NEGATIONS = frozenset("not dont no doesnt cant isnt wont never without nor neither didnt".split())
_REACH = 3
_CLAUSE = re.compile(
    r"[.;,!?:]+|\bbut\b|\bthough\b|\bexcept\b|\bthen\b|\bwhile\b"
    r"|\band (?=i\b|dislike|hate|like|love|prefer|dont|not\b|want|need|avoid|would)"
)
_PREFERRED_TO = re.compile(r"\bthan\b|\bover\b|\bcompared to\b|\binstead of\b")
_WANTED = 0.5
"""The tone of a clause without one; what follows a comparison has so much of its tone, turned round."""

_AMOUNTS = {
    **dict.fromkeys("more most many lots lot much".split(), "more"),
    **dict.fromkeys("less least fewer fewest few no zero small".split(), "less"),
    **dict.fromkeys("high higher highest expensive".split(), "high"),
    **dict.fromkeys("low lower lowest cheap cheaper cheapest".split(), "low"),
}
"""What words of amount have in common: the fewest stops and fewer stops are one thing."""

_PASSED_OVER = frozenset(
    "of the a an i is are to it my me in on am be with that this would and have as so for number really very".split()
)

LEAST_COUNT = 5
LEAST_T = 3.5
"""Of a term's correlation with a trait times the square root of the number of remarks."""

PENALTY = 20.0
KINSHIPS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
_LEAST_VARIANCE = 0.15
"""Of a prediction, as a share of the prior variance: no remark settles a trait."""


@dataclass(frozen=True)
class RemarkReader:
    """A learned reading of remarks: the column of each word and pair, weights (v, d) around the features' centre and
    the prior's mean, the variance of what is predicted as `floor - slope * prediction²`, the prior's variance, and the
    `kinship` of what one person says: m remarks count as m / (1 + kinship · (m - 1)), the design effect of samples
    that are not independent (Kish 1965)."""

    columns: Mapping[str, int]
    weights: Array
    centre: Array
    mean: Array
    prior_variance: float
    floor: float
    slope: float
    kinship: float = 0.0

    def read(self, texts: Sequence[str]) -> list[Remark]:
        """What the remarks of one person say of each trait."""
        share = 1.0 / (1.0 + self.kinship * max(0, len(texts) - 1))
        found = [self.remark(self.predict(remark_features(text, self.columns))) for text in texts]
        return [Remark(share * each.precision, share * each.shift) for each in found]

    def predict(self, features: Array) -> Array:
        """The tastes that remarks with these features (m, v) point to, less the prior's mean: (m, d)."""
        return (features - self.centre) @ self.weights

    def remark(self, prediction: Array) -> Remark:
        """A prediction (d,) as a likelihood: the normal that takes the prior to it."""
        variance = np.clip(
            self.floor - self.slope * prediction**2, _LEAST_VARIANCE * self.prior_variance, 0.98 * self.prior_variance
        )
        precision = 1.0 / variance - 1.0 / self.prior_variance
        pointed = prediction / variance + precision * self.mean
        return Remark(precision, pointed)


@dataclass(frozen=True)
class Person:
    """What somebody chose and said, their tastes (d,), and a reader that was not fitted on them."""

    reader: RemarkReader
    choices: Sequence[Comparison]
    remarks: Sequence[str]
    tastes: Array


def clauses(text: str) -> list[tuple[list[str], float]]:
    """The clauses of a remark, each as its words and its tone; one without a tone has half that of the one before."""
    plain = text.lower().replace("'", "").replace("’", "").replace("do not", "dont")
    found: list[tuple[list[str], float]] = []
    before = 0.0
    for part in _CLAUSE.split(plain):
        first, *others = (spoken_words(each) for each in _PREFERRED_TO.split(part))
        if first:
            before = tone(first) or 0.5 * before or _WANTED
            found.append((first, before))
        found += [(said, tone(said) or -_WANTED * before) for said in others if said]
    return found


def tone(said: Sequence[str]) -> float:
    """Whether the words of a clause like (to 1) or dislike (to -1) what they speak of; 0 where they do neither."""
    total = 0.0
    for index, word in enumerate(said):
        value = _LIKES.get(word, 0.0) - _DISLIKES.get(word, 0.0)
        is_denied = any(each in _NEGATIONS for each in said[max(0, index - _REACH) : index])
        total += -0.8 * value if is_denied else value
    return math.tanh(total)


def remark_features(text: str, columns: Mapping[str, int]) -> Array:
    """(v,): each word and pair with the tone of its clauses."""
    features = np.zeros(len(columns))
    for said, how in clauses(text):
        for each in _terms(said):
            column = columns.get(each)
            if column is not None:
                features[column] += how
    return features


def fit_remarks(texts: Sequence[str], tastes: Array, people: Sequence[int], folds: int = 5) -> RemarkReader:
    """The reading of remarks `texts` (m) of people whose tastes (m, d) are known; `people` (m) says whose each is, so
    that how far a prediction can be trusted is measured on other people. Raises ValueError without remarks."""
    if not texts:
        raise ValueError("a reading of remarks is learned from at least one")
    counts = Counter(term for text in texts for term in {each for said, _ in clauses(text) for each in _terms(said)})
    columns = {term: index for index, term in enumerate(term for term, n in counts.items() if n >= LEAST_COUNT)}
    features = np.array([remark_features(text, columns) for text in texts])
    fold = np.asarray(people) % folds
    predicted = np.zeros(tastes.shape)
    for each in range(folds):
        if (fold == each).any() and (fold != each).any():
            weights, centre, mean = _ridge(features[fold != each], tastes[fold != each])
            predicted[fold == each] = (features[fold == each] - centre) @ weights + mean - tastes.mean(axis=0)
    error = (tastes - tastes.mean(axis=0) - predicted) ** 2
    about = np.column_stack([np.ones(predicted.size), -(predicted**2).ravel()])
    fitted = solved(about.T @ about, about.T @ error.ravel())
    floor, slope = float(fitted[0]), float(fitted[1])
    weights, centre, mean = _ridge(features, tastes)
    return RemarkReader(columns, weights, centre, mean, float(tastes.var(axis=0).mean()), floor, max(0.0, slope))


def fit_kinship(prior: TastePrior, people: Sequence[Person]) -> float:
    """The kinship of KINSHIPS under which what choices and remarks say together makes the tastes of `people` most
    probable, as a normal for each trait; 0 without any."""

    def surprise(kinship: float) -> float:
        total = 0.0
        for each in people:
            taste = taste_of(prior, each.choices, replace(each.reader, kinship=kinship).read(each.remarks))
            total += float((np.log(taste.variance) + (each.tastes - taste.mean) ** 2 / taste.variance).sum())
        return total

    return min(KINSHIPS, key=surprise) if people else 0.0


def _terms(said: Sequence[str]) -> list[str]:
    """Stems, and pairs of them next to each other or one apart; the same with amounts for the words that say one."""
    kept = [word for word in said if word not in _PASSED_OVER]
    found: list[str] = []
    for way in ([stem(word) for word in kept], [_AMOUNTS.get(word) or stem(word) for word in kept]):
        found += way
        found += [f"{a} {b}" for a, b in pairwise(way)]
        found += [f"{a} * {b}" for a, b in zip(way, way[2:], strict=False)]
    return list(dict.fromkeys(found))


def _ridge(features: Array, tastes: Array) -> tuple[Array, Array, Array]:
    """(weights (f, d), centre (f,), mean (d,)); the weights of terms that do not go with a trait are 0."""
    centre, mean = features.mean(axis=0), tastes.mean(axis=0)
    rows, aims = features - centre, tastes - mean
    size = np.outer(np.linalg.norm(rows, axis=0), aims.std(axis=0)) + 1e-9
    goes_with = np.abs(rows.T @ aims) / size >= LEAST_T
    weights: Array = np.zeros((features.shape[1], tastes.shape[1]))
    for trait in range(tastes.shape[1]):
        chosen = np.flatnonzero(goes_with[:, trait])
        own = rows[:, chosen]
        weights[chosen, trait] = solved(own.T @ own + PENALTY * np.eye(len(chosen)), own.T @ aims[:, trait])
    return weights, centre, mean
