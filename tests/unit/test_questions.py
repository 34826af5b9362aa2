"""Which questions of a bank fit a request."""

import numpy as np
import pytest

from app.domain.logit import Array, Choices, fit_logit, padded
from app.domain.questions import (
    QuestionBank,
    RankedBank,
    common_words,
    fit_ranker,
    mutual_likeness,
    unit,
    wordings,
)

TOPICS, EACH, WIDTH = 24, 5, 32


def bank(seed: int = 0, unknown: int = 6) -> tuple[QuestionBank, Array, np.ndarray]:
    """Topics as directions; questions near theirs, along one loud direction that says nothing. The last `unknown`
    topics are new: (the bank that knows the others, the new requests, whose each question is)."""
    chances = np.random.default_rng(seed)
    topics = unit(chances.standard_normal((TOPICS, WIDTH)))
    loud = unit(chances.standard_normal(WIDTH))
    owner = np.repeat(np.arange(TOPICS), EACH)
    noise = 0.35 * chances.standard_normal((len(owner), WIDTH)) / np.sqrt(WIDTH)
    questions = unit(0.6 * topics[owner] + noise + 2.0 * chances.standard_normal((len(owner), 1)) * loud)
    known = TOPICS - unknown
    asked = owner[:, None] == np.arange(known)[None, :]
    return QuestionBank(questions, topics[:known], asked), topics[known:], owner


def recall(order: np.ndarray, relevant: np.ndarray) -> float:
    return float(np.isin(order[:EACH], relevant).mean())


def test_what_is_learned_ranks_the_questions_of_new_requests_above_cosine() -> None:
    known, new, owner = bank()
    ranked = RankedBank(known, fit_ranker(known))
    learned, cosine = [], []
    for index, request in enumerate(new):
        relevant = np.flatnonzero(owner == TOPICS - len(new) + index)
        learned.append(recall(ranked.rank(request)[0], relevant))
        cosine.append(recall(np.argsort(-(known.vectors @ request), kind="stable"), relevant))
    assert np.mean(learned) > np.mean(cosine) + 0.1


def test_a_ranking_is_the_same_every_time_and_sorted() -> None:
    known, new, _ = bank()
    first = RankedBank(known, fit_ranker(known)).rank(new[0])
    second = RankedBank(known, fit_ranker(known)).rank(new[0])
    np.testing.assert_array_equal(first[0], second[0])
    assert (np.diff(first[1]) <= 0).all()
    assert len(set(first[0].tolist())) == len(first[0])


def test_a_ranking_needs_as_many_requests_as_folds() -> None:
    known, _, _ = bank()
    with pytest.raises(ValueError, match="5 requests"):
        fit_ranker(QuestionBank(known.vectors, known.requests[:3], known.asked[:, :3]))


def test_common_words_are_those_of_many_groups() -> None:
    groups = [["are you looking for shoes"], ["are you interested in maps"], ["are you sure"]]
    assert common_words(groups, 0.9) == {"are", "you"}


def test_the_wordings_of_a_text_lack_what_is_common() -> None:
    common = frozenset({"tell", "me", "about", "the"})
    assert wordings("Tell me about the map of the USA", common) == (
        "Tell me about the map of the USA",
        "map of the usa",
        "map of usa",
    )
    assert wordings("tell me", common) == ("tell me", "tell me", "tell me")


def test_a_logit_finds_the_weights_that_choices_were_made_with() -> None:
    chances = np.random.default_rng(0)
    truth = np.array([2.0, -1.0])
    sets = [chances.standard_normal((int(chances.integers(2, 6)), 2)) for _ in range(3000)]
    chosen = []
    for each in sets:
        weights = np.exp(each @ truth)
        chosen.append(int(chances.choice(len(each), p=weights / weights.sum())))
    np.testing.assert_allclose(fit_logit(padded(sets, chosen)).weights, truth, atol=0.15)


def test_a_logit_of_nothing_has_no_preference() -> None:
    empty = Choices(np.zeros((0, 3, 2)), np.zeros((0, 3), dtype=np.bool_), np.zeros((0, 3)))
    np.testing.assert_array_equal(fit_logit(empty).weights, [0.0, 0.0])


def test_near_in_a_crowd_counts_less_than_near_alone() -> None:
    chances = np.random.default_rng(0)
    crowd = unit(np.eye(40)[0] + 0.05 * chances.standard_normal((15, 40)))
    twins = np.array([np.eye(40)[20], unit(np.eye(40)[20] + np.eye(40)[21])])
    vectors = np.vstack([crowd, twins])
    likeness = mutual_likeness(vectors)
    np.testing.assert_allclose(likeness, likeness.T)
    assert (np.diag(likeness) == 0).all()
    assert vectors[0] @ vectors[1] > twins[0] @ twins[1]
    assert likeness[0, 1] < likeness[15, 16]
