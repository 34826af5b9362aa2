"""The belief over what a user means, and what answers say."""

import numpy as np
import pytest

from app.domain.answers import Exchange, Text, content_of, content_stems, coverage, polarity
from app.domain.belief import FEATURES, AnswerReader, Belief, Heard, answer_features, fit_reader
from app.domain.logit import Logit

AXES = np.eye(8)


def text(words: str, axis: int) -> Text:
    return Text(words, AXES[axis])


def exchange(question: int, answer: str, about: int) -> Exchange:
    return Exchange(
        text(f"do you want thing{question}", question),
        text(f"thing{question}", question),
        text(answer, about),
        Text(content_of(answer), AXES[about]),
    )


FACETS = (text("reviews of it", 0), text("the price of it", 1), text("a map of it", 2))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("yes", "yes"),
        ("Sure, go on", "yes"),
        ("no", "no"),
        ("i dont know", "no"),
        ("i am not looking for that", "no"),
        ("I want the price", "open"),
        ("", "open"),
        ("!?", "open"),
    ],
)
def test_an_answer_affirms_denies_or_does_neither(answer: str, expected: str) -> None:
    assert polarity(answer) == expected


def test_the_content_of_an_answer_lacks_its_yes_or_no() -> None:
    assert content_of("no, i want the price") == "i want the price"
    assert content_of("yes") == ""
    assert content_of("the price") == "the price"


def test_a_bare_answer_has_no_words_of_its_own() -> None:
    assert exchange(0, "yes please", 3).is_bare
    assert not exchange(0, "no the price", 1).is_bare


def test_coverage_is_the_share_of_the_said_by_weight() -> None:
    said = content_stems("cheap hotel prices")
    assert coverage(said, [said, frozenset()], {}) == [1.0, 0.0]
    assert coverage({"a", "b"}, [{"a"}], {"a": 3.0, "b": 1.0}) == [0.75]
    assert coverage(set(), [{"a"}], {}) == [0.0]


def test_features_have_their_number() -> None:
    features = answer_features(exchange(0, "no the price", 1), FACETS, {})
    assert features.shape == (3, FEATURES)
    assert np.isfinite(features).all()


def test_an_answer_names_a_hypothesis_by_words_like_its_own() -> None:
    homepage, map_of = (
        Text(words, AXES[axis], AXES[[axis, 7]]) for words, axis in (("homepage park", 0), ("map park", 1))
    )
    said = Text("website", AXES[5], np.array([[0.8, 0.0, 0, 0, 0, 0.6, 0, 0]]))
    asked = exchange(3, "website", 5)
    named = answer_features(Exchange(asked.question, asked.subject, said, said), [homepage, map_of], {})[:, 6:8]
    assert (named[0] > 0.3).all()
    assert (named[1] == 0).all()
    park = Text("park", AXES[7], AXES[[7]])
    both = answer_features(Exchange(asked.question, asked.subject, park, park), [homepage, map_of], {})[:, 6:8]
    assert (both == 0).all()  # a word that all hypotheses have tells none apart


def test_a_lead_is_the_distance_to_the_best_of_the_others() -> None:
    features = answer_features(exchange(3, "the price", 1), FACETS, {})
    np.testing.assert_allclose(features[:, 4], features[:, 0] - np.array([1.0, 0.0, 1.0]))


def learned() -> AnswerReader:
    answers = ["yes", "no", "the price", "yes the price"]
    heard = [
        Heard(FACETS, {meant: [exchange(asked, "yes" if asked == meant else "no", 5) for asked in range(3)]})
        for meant in range(3)
    ]
    heard += [Heard(FACETS, {1: [exchange(3, each, 1) for each in answers[2:]]})]
    return fit_reader(heard)


def test_a_bare_yes_raises_what_was_asked_and_a_bare_no_lowers_it() -> None:
    reader = learned()
    affirmed = reader.start(3).after(reader.log_likelihoods(exchange(2, "yes", 5), FACETS)).probabilities
    denied = reader.start(3).after(reader.log_likelihoods(exchange(2, "no", 5), FACETS)).probabilities
    assert affirmed.argmax() == 2
    assert denied.argmin() == 2


def test_no_hypothesis_is_ruled_out() -> None:
    reader = learned()
    belief = reader.start(3)
    for _ in range(20):
        belief = belief.after(reader.log_likelihoods(exchange(0, "yes", 5), FACETS))
    assert (belief.probabilities > 0).all()
    assert belief.probabilities.sum() == pytest.approx(1.0)


def test_the_order_of_answers_does_not_matter() -> None:
    reader = learned()
    likelihoods = [reader.log_likelihoods(exchange(asked, said, 5), FACETS) for asked, said in ((0, "no"), (1, "yes"))]
    one = reader.start(3).after(likelihoods[0]).after(likelihoods[1])
    other = reader.start(3).after(likelihoods[1]).after(likelihoods[0])
    np.testing.assert_allclose(one.probabilities, other.probabilities)


def test_a_reader_that_ignores_answers_stays_at_chance() -> None:
    reader = AnswerReader(Logit(np.zeros(FEATURES)))
    belief = reader.start(3)
    for said in ("yes", "no", "the price"):
        belief = belief.after(reader.log_likelihoods(exchange(0, said, 1), FACETS))
        np.testing.assert_allclose(belief.probabilities, 1 / 3)


def test_a_temperature_belongs_to_a_number_of_answers() -> None:
    likelihoods = np.array([2.0, 0.0])
    belief = Belief.uniform(2, (1.0, 2.0))
    once = belief.after(likelihoods)
    twice = once.after(np.zeros(2))
    thrice = twice.after(np.zeros(2))
    assert once.probabilities[0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert twice.probabilities[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert thrice.probabilities[0] == twice.probabilities[0]


def test_a_reader_needs_something_to_learn_from() -> None:
    with pytest.raises(ValueError, match="two hypotheses"):
        fit_reader([Heard(FACETS[:1], {0: [exchange(0, "yes", 1)]})])
