"""The figures of the benchmark of hypotheses, on made-up people: no data set is needed."""

from pathlib import Path

import numpy as np
import pytest

from app.domain.answers import Exchange, Text, content_of
from app.domain.belief import FEATURES, AnswerReader, Heard, fit_reader
from app.domain.logit import Logit
from benchmarks.hypotheses.asking import COSTS, Asked, asking_figures, fit_gains, people_held_out, people_of
from benchmarks.hypotheses.belief import STEPS, belief_figures
from benchmarks.hypotheses.data import read_topics
from benchmarks.hypotheses.statistics import (
    auroc,
    calibration_error,
    calibration_errors_by_chance,
    clustered_interval,
    mean_interval,
    spearman,
)

AXES = np.eye(12)
IGNORING = AnswerReader(Logit(np.zeros(FEATURES)))


def text(words: str, axis: int) -> Text:
    return Text(words, AXES[axis])


def exchange(asked: int, answer: str, about: int) -> Exchange:
    content = Text(content_of(answer), AXES[about])
    return Exchange(
        text(f"do you want thing{asked}", asked), text(f"thing{asked}", asked), text(answer, about), content
    )


def requests(*sizes: int) -> list[Heard]:
    """Requests with so many hypotheses; each is meant by somebody who names it when asked for the one before."""
    return [
        Heard(
            tuple(text(f"thing{each}", each) for each in range(size)),
            {
                meant: [
                    exchange((meant + 1) % size, "no", 9),
                    exchange(0, f"no thing{meant}", meant),
                    exchange(meant, "yes", 9),
                ]
                for meant in range(size)
            },
        )
        for size in sizes
    ]


def people(count: int, seed: int) -> list[Asked]:
    """People with four meanings each, of whom six questions in ten learn what they mean, and nearly surely so."""
    chances = np.random.default_rng(seed)
    made: list[Asked] = []
    for number in range(count):
        meant = int(chances.integers(4))
        tells = chances.random(8) < 0.6
        likelihoods = np.where(tells[:, None], 4.0 * np.eye(4)[meant], 0.0)
        made.append(Asked(number // 2, 4, meant, likelihoods))
    return made


def test_a_scorer_that_ignores_answers_stays_at_chance() -> None:
    figures = {each.path: each.value for each in belief_figures(IGNORING, requests(2, 5, 3))}
    for step in range(STEPS + 1):
        assert figures[f"belief/top1/{step}"] == pytest.approx(3 / 10)  # one in n for each of n people
        assert figures[f"belief/nll/{step}"] == pytest.approx((2 * np.log(2) + 5 * np.log(5) + 3 * np.log(3)) / 10)
        assert figures[f"belief/ece/{step}"] == pytest.approx(0.0, abs=1e-9)


def test_a_reader_of_answers_leaves_chance_behind() -> None:
    heard = requests(2, 5, 3, 4)
    figures = {each.path: each.value for each in belief_figures(fit_reader(heard), heard)}
    assert figures["belief/top1/3"] > 0.9 > figures["belief/top1/0"]


def test_a_request_with_one_meaning_is_left_out() -> None:
    assert belief_figures(IGNORING, requests(4, 1))[0].value == pytest.approx(1 / 4)
    assert people_of(IGNORING, requests(1)) == []


def test_everybody_is_read_by_a_reader_of_other_requests() -> None:
    heard = requests(3, 4, 3, 4, 3, 4)
    held_out = people_held_out(heard)
    assert len(held_out) == 21
    others = fit_reader(heard[1:5])
    np.testing.assert_allclose(
        held_out[0].likelihoods[0], others.log_likelihoods(heard[0].exchanges[0][0], heard[0].hypotheses)
    )


def test_questions_become_fewer_as_they_cost_more() -> None:
    known, judged = people(60, 0), people(60, 1)
    figures = {each.path: each.value for each in asking_figures(IGNORING, fit_gains(IGNORING, known), judged, known)}
    asked = [figures[f"questions/{cost:.2f}/voi"] for cost in COSTS]
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] >= 1
    for cost in COSTS:
        ours, never = figures[f"utility/{cost:.2f}/voi"], figures[f"utility/{cost:.2f}/never"]
        assert never == pytest.approx(1 / 4)
        assert ours > never
        for rule in ("threshold", "fixed"):
            learned = figures[f"utility/{cost:.2f}/{rule}_learned"]
            assert learned <= figures[f"utility/{cost:.2f}/{rule}"]
            assert ours > learned - 0.03


def test_a_question_that_says_nothing_is_not_asked() -> None:
    silent = [Asked(each.number, 4, each.meant, np.zeros((8, 4))) for each in people(20, 0)]
    figures = {each.path: each.value for each in asking_figures(IGNORING, fit_gains(IGNORING, silent), silent, silent)}
    assert figures["questions/0.01/voi"] == 0
    assert figures["utility/0.01/voi"] == pytest.approx(1 / 4)


def test_calibration_error_and_what_chance_makes_of_it() -> None:
    confidence = np.repeat([0.25, 0.75], 200)
    is_right = np.concatenate([np.arange(200) < 50, np.arange(200) < 110]).astype(float)
    assert calibration_error(confidence, is_right) == pytest.approx(0.1)
    alone = calibration_errors_by_chance(confidence, np.arange(400))
    together = calibration_errors_by_chance(confidence, np.arange(400) // 20)
    assert 0 < alone.mean() < 0.05 < together.mean()


def test_rank_figures() -> None:
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 1, 2, 2]), np.array([1.0, 1, 0, 0])) == pytest.approx(-1.0)
    assert auroc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.875)


def test_an_interval_over_clusters_is_wider_where_their_members_agree() -> None:
    values = np.repeat(np.random.default_rng(0).random(30), 10)

    def width(said: str) -> float:
        low, high = said.removeprefix("95 % ").split(" to ")
        return float(high) - float(low)

    assert width(clustered_interval(values, np.arange(300) // 10)) > 2 * width(mean_interval(values))
    assert clustered_interval(values, np.arange(300)) == mean_interval(values)


def test_topics_are_read_with_their_facets_questions_and_answers(tmp_path: Path) -> None:
    columns = "topic_id initial_request clarification_need facet_id facet_desc question_id question answer".split()
    rows = [
        ("1", "a park", "3", "F1", "its map", "Q1", "a map?", "yes"),
        ("1", "a park", "3", "F2", "its hours", "Q1", "a map?", "no"),
        ("1", "a park", "3", "F2", "its hours", "Q00001", "", ""),
    ]
    (tmp_path / "t.tsv").write_text("\n".join("\t".join(each) for each in [columns, *rows]), encoding="utf-8")
    (topic,) = read_topics(tmp_path / "t.tsv")
    assert (topic.request, topic.need, topic.facets) == ("a park", 3, ("its map", "its hours"))
    assert topic.question_ids == {"Q1"}
    assert topic.answers == ((("a map?", "yes"),), (("a map?", "no"),))
