"""Figures of retrieval: against hand-worked rankings, and whether intervals say what they promise."""

from collections.abc import Sequence

import numpy as np
import pytest

from fine_tuning.embedding.evaluate import (
    EvaluationRow,
    RetrievalSet,
    concatenated,
    mean_interval,
    paired_bootstrap,
    rank,
    retrieval_figures,
)
from serving.pooling import Vectors

ANGLES = {"a": 0, "near a": 10, "nearer a": 5, "b": 90, "near b": 120, "other": 60}


def encode(texts: Sequence[str]) -> Vectors:
    """Each text a direction in the plane, of a length that must not matter."""
    degrees = np.deg2rad([ANGLES[text] for text in texts])
    return (np.stack([np.cos(degrees), np.sin(degrees)], axis=1) * 3).astype(np.float32)


def test_a_row_is_ranked_among_its_negatives_and_the_other_rows_positives() -> None:
    rows = [
        EvaluationRow("a", "near a", ("nearer a",)),  # behind its negative: rank 2
        EvaluationRow("b", "near b", ("other", "near a")),  # as near as "other", which counts as before it: rank 2
        EvaluationRow("b", "b"),  # itself: rank 1, and "near b" belongs to the same anchor
    ]
    ranking = rank(encode, rows)

    np.testing.assert_array_equal(ranking.first_ranks, [2, 2, 1])
    figures = retrieval_figures(encode, rows)
    assert figures.mrr == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert (figures.hit_at_1, figures.hit_at_5, figures.queries) == (pytest.approx(1 / 3), 1, 3)
    assert figures.ndcg_at_10 == pytest.approx((2 / np.log2(3) + 1) / 3)


def test_other_positives_of_an_anchor_are_no_candidates() -> None:
    rows = [EvaluationRow("a", "near a"), EvaluationRow("a", "nearer a")]

    np.testing.assert_array_equal(rank(encode, rows).first_ranks, [1, 1])


def test_a_model_that_tells_nothing_apart_is_not_rewarded() -> None:
    rows = [EvaluationRow(f"q{n}", f"t{n}") for n in range(20)]
    corpus = RetrievalSet({"q": "q"}, {str(n): f"t{n}" for n in range(20)}, {"q": {"0": 1.0}})
    for data in (rows, corpus):
        figures = retrieval_figures(lambda texts: np.ones((len(texts), 4), np.float32), data)

        assert (figures.mrr, figures.hit_at_10, figures.ndcg_at_10) == (pytest.approx(1 / 20), 0, 0)


def test_a_retrieval_set_has_graded_gains_and_leaves_out_queries_without_any() -> None:
    data = RetrievalSet(
        queries={"q1": "a", "q2": "b", "q3": "other"},
        corpus={"1": "nearer a", "2": "near a", "3": "near b"},
        relevance={"q1": {"2": 2.0, "3": 1.0}, "q2": {"3": 1.0, "1": 0.0}, "q3": {"1": 0.0}},
        groups={"q1": "g"},
    )
    ranking = rank(encode, data)

    np.testing.assert_array_equal(ranking.first_ranks, [2, 1])
    got, best = 2 / np.log2(3) + 1 / np.log2(4), 2 + 1 / np.log2(3)
    np.testing.assert_allclose(ranking.ndcg_at_10, [got / best, 1])
    assert ranking.groups == ["g", "query q2"]


def test_nothing_to_rank_is_said() -> None:
    with pytest.raises(ValueError, match="no rows"):
        retrieval_figures(encode, [])
    with pytest.raises(ValueError, match="no queries"):
        retrieval_figures(encode, RetrievalSet({"q": "a"}, {"1": "b"}, {}))


def test_rankings_of_several_users_are_one() -> None:
    ranking = rank(encode, [EvaluationRow("a", "near a", group="u")])

    both = concatenated([ranking, ranking])
    assert (len(both.first_ranks), list(both.groups)) == (2, ["group u", "group u"])


def test_an_interval_counts_groups_not_queries() -> None:
    """Forty queries of one keen user who gains, beside four users who do not: no proof."""
    after = np.array([1.0] * 40 + [0.0] * 4)
    keen = ["keen"] * 40 + [f"user {n}" for n in range(4)]
    clustered = paired_bootstrap(np.zeros(44), after, keen)
    alone = paired_bootstrap(np.zeros(44), after, [str(n) for n in range(44)])

    assert clustered.value == alone.value == pytest.approx(40 / 44)
    assert clustered.low == 0
    assert alone.low > 0.8


def test_the_interval_of_a_difference_is_paired() -> None:
    """Queries differ far more from each other than the models do on any of them."""
    dice = np.random.default_rng(0)
    before = dice.uniform(0, 1, 200)
    after = before + 0.02 + dice.normal(0, 0.01, 200)
    groups = [str(n) for n in range(200)]
    gain = paired_bootstrap(before, after, groups)

    assert 0.015 < gain.low < gain.value < gain.high < 0.025
    apart = [mean_interval(values, groups) for values in (before, after)]
    assert apart[0].high > apart[1].low
    assert gain == paired_bootstrap(before, after, groups)
