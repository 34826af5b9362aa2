"""The posterior of tastes against a library's: the same, for what both can say."""

import numpy as np
import pytest
from bayesianbandits import BayesianGLM, LaplaceApproximator, NormalRegressor

from app.domain.tastes import Comparison, Remark, TastePrior, heard, laplace


@pytest.mark.parametrize("seed", range(5))
def test_choices_of_two_are_its_logistic_regression(seed: int) -> None:
    """A choice of one of two is a logistic regression on their difference: the most probable weights and the curvature
    are the library's to 1e-9, whatever the prior, whose square root takes both to unit precision."""
    chances = np.random.default_rng(seed)
    root = np.tril(chances.standard_normal((4, 4))) + 2 * np.eye(4)
    prior = TastePrior(np.zeros(4), root @ root.T, 1.7)
    shown = chances.standard_normal((40, 2, 4))
    chosen = chances.integers(0, 2, 40)
    weights = chances.uniform(0.1, 1.0, 40)
    found, covariance = laplace(
        prior,
        [
            Comparison(options, int(index), float(weight))
            for options, index, weight in zip(shown, chosen, weights, strict=True)
        ],
    )
    rows = prior.sharpness * (shown[:, 0] - shown[:, 1]) @ root
    model = BayesianGLM(alpha=1.0, link="logit", approximator=LaplaceApproximator(n_iter=100, tol=1e-14))
    model.fit(rows, (chosen == 0).astype(float), sample_weight=weights)
    assert np.abs(found - root @ model.coef_).max() < 1e-9
    above = np.triu(model.cov_inv_)  # the other half is not kept
    curvature = above + above.T - np.diag(np.diag(above))
    assert np.abs(covariance - root @ np.linalg.inv(curvature) @ root.T).max() < 1e-9


def test_remarks_are_its_linear_regression() -> None:
    """A remark of precision p is an observation of a facet with the weight p."""
    chances = np.random.default_rng(7)
    precisions, targets = chances.uniform(1, 9, 6), chances.uniform(-0.5, 0.5, 6)
    remarks = [Remark(np.array([p]), np.array([p * t])) for p, t in zip(precisions, targets, strict=True)]
    informed = heard(TastePrior(np.zeros(1), np.array([[1 / 12]])), remarks)
    model = NormalRegressor(alpha=12.0, beta=1.0)
    model.fit(np.sqrt(precisions)[:, None], np.sqrt(precisions) * targets)
    assert informed.mean[0] == pytest.approx(float(model.coef_[0]), abs=1e-9)
    assert informed.covariance[0, 0] == pytest.approx(1 / float(model.cov_inv_[0, 0]), abs=1e-9)
