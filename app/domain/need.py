"""How much a request needs a question, learned from requests that people judged.

A ridge regression (Hoerl and Kennard 1970) on standardised features: how long the request is and how it is put, how
the things nearest to it stand to it, and what it is about, as the first principal components of the requests'
vectors. The penalty is chosen by generalised cross-validation (Golub, Heath and Wahba 1979); how many components there
are, by predicting requests that neither components nor weights were learned from.
"""

import math
from dataclasses import dataclass

import numpy as np

from app.domain.logit import Array
from app.domain.wording import content_words, words

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
COMPONENTS = (0, 10, 30, 100, 384)
FOLDS = 5

_ASKING = frozenset("what how where when who which why is are can does do".split())
_FIRST_PERSON = frozenset("i i'm i'd i've we".split())


@dataclass(frozen=True)
class Ridge:
    """A fitted linear prediction: weights (f,) around the features' and the target's means."""

    weights: Array
    centre: Array
    mean: float

    def predict(self, features: Array) -> Array:
        """(m, f) to (m,)."""
        return (features - self.centre) @ self.weights + self.mean


@dataclass(frozen=True)
class NeedModel:
    """How much requests need a question: `directions` (d, c) are the components of their vectors that matter."""

    ridge: Ridge
    directions: Array

    def predict(self, features: Array, vectors: Array) -> Array:
        """The need (m,) of requests with features (m, f) and vectors (m, d), on the scale of the labels."""
        return self.ridge.predict(np.hstack([features, vectors @ self.directions]))


def need_features(request: str, vector: Array, nearest: Array) -> Array:
    """(9,): how long a request is, how it is put, and how what is nearest to it (k, d) stands to it: near things that
    agree with each other leave less open."""
    near = nearest @ vector
    said = words(request)
    first = said[0] if said else ""
    return np.array(
        [
            math.log1p(len(said)),
            math.log1p(len(content_words(request))),
            float(any(character.isdigit() for character in request)),
            float(request.rstrip().endswith("?")),
            float(first in _ASKING),
            float(first in _FIRST_PERSON),
            float(near.max()),
            float(near.mean()),
            float((nearest @ nearest.T).mean()),
        ]
    )


def fit_need(features: Array, vectors: Array, labels: Array) -> NeedModel:
    """The model of `labels` (m,), with as many components as predict held-out fifths of the requests best, taken by
    index. Raises ValueError with fewer than two requests."""
    if len(labels) < 2:
        raise ValueError(f"a need is learned from two judged requests at least, not {len(labels)}")
    errors = dict.fromkeys(COMPONENTS, 0.0)
    fold = np.arange(len(labels)) % FOLDS
    for each in range(min(FOLDS, len(labels))):
        is_out = fold == each
        axes = _axes(vectors[~is_out])
        for count in COMPONENTS:
            tried = _on(axes[:, :count], features[~is_out], vectors[~is_out], labels[~is_out])
            errors[count] += float(((tried.predict(features[is_out], vectors[is_out]) - labels[is_out]) ** 2).sum())
    best = min(COMPONENTS, key=lambda count: errors[count])
    return _on(_axes(vectors)[:, :best], features, vectors, labels)


def _axes(vectors: Array) -> Array:
    """The principal directions (d, c) of vectors (m, d), the one they differ in most first."""
    return np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2].T


def _on(directions: Array, features: Array, vectors: Array, labels: Array) -> NeedModel:
    return NeedModel(fit_ridge(np.hstack([features, vectors @ directions]), labels), directions)


def fit_ridge(features: Array, target: Array, penalty: float | None = None) -> Ridge:
    """The ridge regression of `target` (m,) on `features` (m, f); without a penalty, the best of PENALTIES by
    generalised cross-validation."""
    centre, mean = features.mean(axis=0), float(target.mean())
    scale = features.std(axis=0) + 1e-9
    left, spread, right = np.linalg.svd((features - centre) / scale, full_matrices=False)
    along = left.T @ (target - mean)
    penalties = PENALTIES if penalty is None else (penalty,)
    errors = {each: _expected_error(each, spread, along, left, target - mean) for each in penalties}
    chosen = min(errors, key=lambda each: errors[each])
    weights = right.T @ (along * spread / (spread**2 + chosen))
    return Ridge(weights / scale, centre, mean)


def _expected_error(penalty: float, spread: Array, along: Array, left: Array, target: Array) -> float:
    shrunk = spread**2 / (spread**2 + penalty)
    residual = target - left @ (shrunk * along)
    return float((residual**2).mean() / (1.0 - (1.0 + shrunk.sum()) / (len(target) + 1.0)) ** 2)
