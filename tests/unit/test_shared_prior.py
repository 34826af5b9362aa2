"""Where a tenant's calibration begins: at the mean of the others', which none of them moves far."""

import math

import pytest

from app.domain.calibration import MODEL_PRIOR, PRIOR, Calibration
from app.domain.shared_prior import FURTHEST, LEAST_OUTCOMES, LEAST_TENANTS, SHIPPED_WORTH, shared_prior


def tenants(count: int, weight: float = 0.5, none_score: float = 1.0, outcomes: int = 10_000) -> list[Calibration]:
    return [Calibration({"score": weight}, none_score, 3, outcomes)] * count


def test_few_tenants_share_none() -> None:
    assert shared_prior(tenants(LEAST_TENANTS - 1), PRIOR) is None
    few = tenants(50, outcomes=LEAST_OUTCOMES - 1)
    assert shared_prior(few, PRIOR) is None
    other = [Calibration({"stated": 1.0}, 0.0, 1, 1000)] * 50
    assert shared_prior(other, PRIOR) is None, "fits of other features are no fits of these"


def test_it_goes_from_what_is_shipped_to_the_mean_of_the_tenants() -> None:
    few, many = shared_prior(tenants(LEAST_TENANTS), PRIOR), shared_prior(tenants(2000), PRIOR)
    assert few is not None
    assert many is not None
    assert PRIOR.weights["score"] > few.weights["score"] > many.weights["score"]
    assert many.weights["score"] == pytest.approx(0.5, abs=0.01)
    assert many.none_score == pytest.approx(1.0, abs=0.01)
    assert (many.version, many.outcomes) == (0, 0)


def test_more_outcomes_count_more_and_none_counts_for_two() -> None:
    held = tenants(9, weight=1.0, none_score=PRIOR.none_score)
    little = shared_prior([*held, *tenants(1, none_score=2.0, outcomes=30)], PRIOR)
    much = shared_prior([*held, *tenants(1, none_score=2.0, outcomes=10**9)], PRIOR)
    assert little is not None
    assert much is not None
    assert PRIOR.none_score < little.none_score < much.none_score
    share = 1.0 / (SHIPPED_WORTH + 10)
    assert much.none_score - PRIOR.none_score <= share * 1.6 + 0.01


def test_no_tenant_moves_it_far_however_far_out_it_is() -> None:
    held = tenants(9, weight=1.0, none_score=PRIOR.none_score)
    moved = shared_prior([*held, Calibration({"score": 1e9}, -1e9, 1, 10**9)], PRIOR)
    assert moved is not None
    most = 1.0 / (SHIPPED_WORTH + 9 * 10_000 / 10_100 + 1)
    assert 0 < math.log(moved.weights["score"]) <= most * math.log(FURTHEST) + 1e-9


def test_every_kind_of_evidence_has_a_share() -> None:
    fits = [Calibration({"label": 0.3, "nearness": 8.0}, 0.0, 1, 10_000)] * 500
    made = shared_prior(fits, MODEL_PRIOR)
    assert made is not None
    assert made.weights == pytest.approx({"label": 0.3, "nearness": 8.0}, rel=0.02)
