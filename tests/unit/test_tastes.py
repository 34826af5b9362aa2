"""What a user values, from their choices and their remarks."""

from dataclasses import replace

import numpy as np
import pytest

from app.domain.logit import Array
from app.domain.remarks import Person, clauses, fit_kinship, fit_remarks, remark_features, tone
from app.domain.tastes import Comparison, Remark, TastePrior, fit_prior, fit_sharpness, taste_of

PRIOR = TastePrior(np.zeros(2), np.eye(2), 5.0)
LIKES_FIRST = Comparison(np.array([[1.0, 0.0], [0.0, 0.0]]), 0)


def simulated(users: int, choices: int, seed: int) -> tuple[Array, list[list[Comparison]]]:
    chances = np.random.default_rng(seed)
    tastes = chances.standard_normal((users, 2))
    histories: list[list[Comparison]] = []
    for each in tastes:
        own: list[Comparison] = []
        for _ in range(choices):
            shown = chances.random((3, 2))
            scores = PRIOR.sharpness * shown @ each
            weights = np.exp(scores - scores.max())
            own.append(Comparison(shown, int(chances.choice(3, p=weights / weights.sum()))))
        histories.append(own)
    return tastes, histories


def test_without_evidence_a_taste_is_the_prior() -> None:
    prior = TastePrior(np.array([0.5, -0.5]), np.array([[1.0, 0.6], [0.6, 2.0]]))
    taste = taste_of(prior, [])
    np.testing.assert_allclose(taste.mean, prior.mean, atol=1e-9)
    np.testing.assert_allclose(taste.variance, [1.0, 2.0], rtol=0.1)


def test_a_choice_moves_the_trait_that_told_the_options_apart() -> None:
    taste = taste_of(PRIOR, [LIKES_FIRST])
    assert taste.mean[0] > 0.3
    assert taste.mean[1] == pytest.approx(0.0, abs=0.02)
    assert taste.variance[0] < 1.0


def test_a_correlated_trait_moves_along() -> None:
    prior = TastePrior(np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]), 5.0)
    assert taste_of(prior, [LIKES_FIRST]).mean[1] > 0.2


def test_the_order_of_choices_does_not_matter() -> None:
    _, histories = simulated(1, 8, 3)
    one, other = taste_of(PRIOR, histories[0]), taste_of(PRIOR, histories[0][::-1])
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-9)
    np.testing.assert_allclose(one.interval(0.9), other.interval(0.9), atol=1e-9)


def test_a_choice_of_no_weight_says_nothing() -> None:
    faded = Comparison(LIKES_FIRST.shown, 0, 0.0)
    np.testing.assert_allclose(taste_of(PRIOR, [faded]).mean, taste_of(PRIOR, []).mean, atol=1e-9)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    tastes, histories = simulated(300, 6, 1)
    inside: list[bool] = []
    for truth, history in zip(tastes, histories, strict=True):
        low, high = taste_of(PRIOR, history).interval(0.9)
        inside += list((low <= truth) & (truth <= high))
    assert np.mean(inside) == pytest.approx(0.9, abs=0.03)


def test_the_posterior_mean_is_that_of_a_fine_grid() -> None:
    _, histories = simulated(1, 4, 5)
    axis = np.linspace(-4, 4, 201)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    logs = -0.5 * (grid**2).sum(axis=1)
    for each in histories[0]:
        scores = PRIOR.sharpness * grid @ each.shown.T
        logs += scores[:, each.chosen] - np.log(np.exp(scores).sum(axis=1))
    weights = np.exp(logs - logs.max())
    np.testing.assert_allclose(taste_of(PRIOR, histories[0]).mean, weights @ grid / weights.sum(), atol=0.05)


def test_a_prior_has_the_mean_and_the_correlation_of_the_users() -> None:
    chances = np.random.default_rng(0)
    means = chances.multivariate_normal([1.0, 0.0], [[1.0, 0.5], [0.5, 1.0]], 4000)
    prior = fit_prior(means)
    np.testing.assert_allclose(prior.mean, [1.0, 0.0], atol=0.06)
    np.testing.assert_allclose(prior.covariance, [[1.0, 0.5], [0.5, 1.0]], atol=0.08)
    wider = fit_prior(means, np.tile(np.eye(2), (4000, 1, 1)))
    np.testing.assert_allclose(wider.covariance - prior.covariance, np.eye(2), atol=1e-9)


def test_a_prior_needs_two_users() -> None:
    with pytest.raises(ValueError, match="two users"):
        fit_prior(np.zeros((1, 2)))


def test_the_sharpness_is_learned_from_choices_alone() -> None:
    _, histories = simulated(150, 5, 2)
    assert fit_sharpness(TastePrior(np.zeros(2), np.eye(2), 14.0), histories).sharpness in {3.0, 5.0, 7.0}


def test_a_remark_is_one_more_likelihood() -> None:
    remark = Remark(np.array([3.0, 0.0]), np.array([3.0, 0.0]))
    taste = taste_of(PRIOR, [], [remark])
    np.testing.assert_allclose(taste.mean, [0.75, 0.0], atol=0.02)
    np.testing.assert_allclose(taste.variance, [0.25, 1.0], rtol=0.1)


@pytest.mark.parametrize(
    ("said", "sign"),
    [("i love trains", 1), ("i hate trains", -1), ("i do not like trains", -1), ("trains", 1), ("never by train", -1)],
)
def test_the_tone_of_a_clause(said: str, sign: int) -> None:
    assert np.sign(clauses(said)[0][1]) == sign


def test_each_clause_has_its_own_tone() -> None:
    found = clauses("I love trains, but hate planes")
    assert [words for words, _ in found] == [["i", "love", "trains"], ["hate", "planes"]]
    assert found[0][1] > 0 > found[1][1]
    assert tone(["planes"]) == 0.0


def test_what_something_is_preferred_to_is_not_wanted() -> None:
    (first, liked), (second, other) = clauses("i prefer trains over planes")
    assert (first, second) == (["i", "prefer", "trains"], ["planes"])
    assert liked > 0 > other


def test_words_of_one_amount_are_read_as_one() -> None:
    fewer, fewest, many = (
        remark_features(text, {"less stop": 0}) for text in ("fewer stops", "the fewest # of stops", "many stops")
    )
    assert fewer[0] == fewest[0] > 0
    assert many[0] == 0


def test_words_that_go_with_no_taste_have_no_weight() -> None:
    chances = np.random.default_rng(0)
    tastes = np.where(chances.random((300, 1)) < 0.5, -1.0, 1.0)
    texts = [f"thing{index % 7}, {'love' if each[0] > 0 else 'hate'} trains" for index, each in enumerate(tastes)]
    reader = fit_remarks(texts, tastes, list(range(300)))
    assert reader.weights[reader.columns["train"], 0] > 0.3
    assert not any(reader.weights[reader.columns[f"thing{each}"]].any() for each in range(7))


def test_remarks_are_learned_from_people_whose_tastes_are_known() -> None:
    chances = np.random.default_rng(0)
    tastes = np.where(chances.random((200, 2)) < 0.5, -1.0, 1.0)
    words = {-1.0: "hate", 1.0: "love"}
    texts = [
        f"i {words[each[0]]} trains" if index % 2 else f"i {words[each[1]]} planes" for index, each in enumerate(tastes)
    ]
    reader = fit_remarks(texts, tastes, list(range(200)))
    pointed = taste_of(TastePrior(np.zeros(2), np.eye(2)), [], reader.read(["i hate trains"])).mean
    assert pointed[0] < -0.3
    assert abs(pointed[1]) < 0.25
    (silent,) = reader.read(["hm"])
    assert np.abs(silent.precision).max() < 0.5
    one, both = reader.read(["i hate trains"]), replace(reader, kinship=1.0).read(["i hate trains"] * 2)
    np.testing.assert_allclose(sum(each.precision for each in both), one[0].precision)


def test_who_says_the_same_again_and_again_is_heard_about_once() -> None:
    chances = np.random.default_rng(0)
    tastes = chances.choice([-1.0, 1.0], (400, 1))
    says_true = chances.random(400) < 0.7
    texts = [
        f"i {'love' if (each[0] > 0) == is_true else 'hate'} trains"
        for each, is_true in zip(tastes, says_true, strict=True)
    ]
    reader = fit_remarks(texts, tastes, list(range(400)))
    wide = TastePrior(np.zeros(1), np.eye(1))
    repeated = [Person(reader, [], [text] * 6, taste) for text, taste in zip(texts[:100], tastes[:100], strict=True)]
    once = [Person(reader, [], [text], taste) for text, taste in zip(texts[:100], tastes[:100], strict=True)]
    assert fit_kinship(wide, repeated) >= 0.5
    assert fit_kinship(wide, once) == 0.0
    assert fit_kinship(wide, []) == 0.0
