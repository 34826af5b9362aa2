"""The promotion policy, its gates, and the words of a verdict."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import InvalidInput
from app.domain.promotion import Figure, Gate, Policy, Rows, Unanswered, parse_policy, verdict
from app.services.training.policy import CHECKOUT_POLICY, load_policy

ENOUGH = 30


def judged(gates: dict[str, Any], **figures: Figure) -> tuple[str, ...]:
    """The refusals where only these gates count; `hit` stands for hit@1."""
    names = ("mrr", "hit@1", "calibration_error", "schema_validity", "reward_win_rate", "latency_ratio")
    policy = parse_policy({"gates": {**dict.fromkeys(names), **gates}})
    given = {name.replace("hit", "hit@1"): figure for name, figure in figures.items()}
    found = verdict(policy, given, ENOUGH, Unanswered(100))
    assert found.is_accepted == (not found.refusals)
    return found.refusals


def test_the_checkout_policy_says_the_defaults() -> None:
    assert CHECKOUT_POLICY.is_file()
    assert load_policy() == Policy()


def test_what_is_left_out_is_the_default() -> None:
    policy = parse_policy({"rows": {"most": 50}, "gates": {"mrr": {"worse_by_at_most": 0.1}, "hit@1": None}})

    assert policy.rows == Rows(most=50)
    assert policy.gates["mrr"] == Gate(worse_by_at_most=0.1)
    assert policy.gates["hit@1"] is None
    assert policy.gates["latency_ratio"] == Gate(at_most=3.0)


def test_a_policy_is_its_document() -> None:
    policy = parse_policy({"gates": {"hit@1": None}, "canary": {"share": 0.5}})

    assert parse_policy(policy.document()) == policy


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"rows": {"lest": 3}}, "rows.lest is unknown"),
        ({"row": {}}, "row is unknown"),
        ({"gates": {"mr": {"improves": True}}}, "gates.mr is no figure"),
        ({"gates": {"mrr": {"improves": False}}}, "gates.mrr.improves: Input should be True"),
        ({"gates": {"mrr": {}}}, "gates.mrr: a gate is one of improves: true, worse_by_at_most, at_least, at_most"),
        ({"gates": {"mrr": {"at_least": 1, "at_most": 2}}}, "gates.mrr: a gate is one of"),
        ({"gates": {"latency_ratio": {"improves": True}}}, "latency_ratio is the candidate's own figure"),
        ({"gates": 3}, "gates: Input should be a valid dictionary"),
        ({"rows": {"least": 9, "most": 3}}, "rows: most is below least"),
        ({"bootstrap": {"confidence": 2}}, "bootstrap.confidence: Input should be less than 1"),
        ({"canary": {"share": 0}}, "canary.share: Input should be greater than 0"),
    ],
)
def test_a_wrong_policy_is_named(document: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_policy(document)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"canary.alpha.*rows.least.*x is unknown"):
        parse_policy({"x": 1, "canary": {"alpha": 2}, "rows": {"least": "many"}})


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("rows: {least: 1}")

    with pytest.raises(InvalidInput, match=rf"{path}: .*rows.least") as caught:
        load_policy(path)
    assert caught.value.field == "PROMOTION_POLICY"
    with pytest.raises(InvalidInput, match="cannot read"):
        load_policy(tmp_path / "missing.yaml")


IMPROVES = {"mrr": {"improves": True}}


@pytest.mark.parametrize(
    ("figure", "refusals"),
    [
        (Figure(0.73, 0.41, 0.21, 0.43), ()),
        (
            Figure(0.41, 0.73, -0.43, -0.21),
            ("mrr 0.410 against 0.730 of the serving model: worse by 0.320 (95 % interval 0.210 to 0.430)",),
        ),
        (
            Figure(0.75, 0.73, -0.03, 0.07),
            (
                "mrr 0.750 against 0.730 of the serving model: "
                "better by 0.020 (95 % interval of the gain -0.030 to 0.070)",
            ),
        ),
        (
            Figure(0.73, 0.73, 0.0, 0.0),
            ("mrr 0.730 against 0.730 of the serving model: no better (95 % interval of the gain 0.000 to 0.000)",),
        ),
        (
            Figure(0.9, 0.4),
            (
                "mrr 0.900 against 0.400 of the serving model: the rows are of fewer than two users, so nobody can "
                "tell whether that is chance",
            ),
        ),
    ],
)
def test_improves(figure: Figure, refusals: tuple[str, ...]) -> None:
    assert judged(IMPROVES, mrr=figure) == refusals


def test_a_lower_calibration_error_improves() -> None:
    gates = {"calibration_error": {"improves": True}}

    assert judged(gates, calibration_error=Figure(0.1, 0.3, -0.3, -0.1)) == ()
    assert judged(gates, calibration_error=Figure(0.3, 0.1, 0.1, 0.3)) == (
        "calibration_error 0.300 against 0.100 of the serving model: worse by 0.200 (95 % interval 0.100 to 0.300)",
    )


NOT_WORSE = {"hit@1": {"worse_by_at_most": 0.1}}


@pytest.mark.parametrize(
    ("figure", "refusals"),
    [
        (Figure(0.5, 0.5, -0.1, 0.1), ()),
        (
            Figure(0.4, 0.5, -0.15, -0.05),
            (
                "hit@1 0.400 against 0.500 of the serving model: worse by 0.100 (95 % interval 0.050 to 0.150), "
                "and at most 0.1 is allowed",
            ),
        ),
        (
            Figure(0.6, 0.5, -0.2, 0.4),
            (
                "hit@1 0.600 against 0.500 of the serving model: better by 0.100, but it may be worse by up to 0.200 "
                "(95 % interval), and at most 0.1 is allowed",
            ),
        ),
    ],
)
def test_worse_by_at_most(figure: Figure, refusals: tuple[str, ...]) -> None:
    assert judged(NOT_WORSE, hit=figure) == refusals


def test_the_candidates_own_figures() -> None:
    gates = {"reward_win_rate": {"at_least": 0.5}, "latency_ratio": {"at_most": 1.25}}

    assert judged(gates, reward_win_rate=Figure(0.5), latency_ratio=Figure(1.25)) == ()
    assert judged(gates, reward_win_rate=Figure(0.41), latency_ratio=Figure(1.5)) == (
        "reward_win_rate 0.41 is 0.09 below 0.5",
        "latency_ratio 1.5 is 0.25 above 1.25",
    )


def test_what_is_not_measured_refuses_nobody() -> None:
    found = verdict(Policy(), {"mrr": Figure(0.73, 0.41, 0.21, 0.43)}, ENOUGH, Unanswered(100))

    assert found.is_accepted
    assert found.passed["mrr"] is True
    assert found.passed["reward_win_rate"] is None


def test_too_few_rows_say_how_many_are_needed() -> None:
    found = verdict(Policy(), {}, 12, Unanswered(12))

    assert found.refusals == ("12 held-out choices can be judged: at least 30 are needed, 18 more",)


def test_silence_above_the_share_is_a_refusal() -> None:
    assert verdict(Policy(), {}, ENOUGH, Unanswered(100, 5, 5)).is_accepted
    assert verdict(Policy(), {}, ENOUGH, Unanswered(100, 6, 20)).refusals == (
        "the candidate left 6 of 100 questions without an answer (6%): at most 5% may be",
        "the serving model left 20 of 100 questions without an answer (20%): at most 5% may be",
    )


def test_every_refusal_is_given() -> None:
    worse = Figure(0.1, 0.9, -0.9, -0.7)
    figures = {"mrr": worse, "hit@1": worse, "calibration_error": dataclasses.replace(worse, low=0.7, high=0.9)}

    assert len(verdict(Policy(), figures, ENOUGH, Unanswered()).refusals) == 3
