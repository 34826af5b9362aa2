"""Trials of embedding spaces: sticky arms, figures that keen users do not fool, advice that may be asked for daily."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from app.domain.errors import InvalidInput
from app.domain.promotion import Bootstrap
from app.domain.trials import (
    ALPHA,
    LEAST_USERS,
    METRICS,
    ArmFigure,
    Compared,
    Outcomes,
    Trial,
    advise,
    chance_of_no_difference,
    figure_of,
    sums_of,
)
from app.services.trial_report import write_trial_report
from app.services.trials import compare

FEW = Bootstrap(resamples=300)
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def trial_of(share: float = 0.5, number: int = 0) -> Trial:
    return Trial(f"trial-{number}", "http://localhost", "new", 64, "old", share, "running", NOW, NOW)


def outcomes_of(
    trial: Trial, dice: np.random.Generator, users: int, gain: float = 0.0, spread: float = 0.25
) -> list[Outcomes]:
    """What users do who differ among themselves by `spread`, and select more often by `gain` in the trial's arm."""
    made: list[Outcomes] = []
    for number in range(users):
        name = f"user-{number}"
        rate = float(np.clip(dice.normal(0.55, spread) + gain * trial.has(name), 0, 1))
        tries = int(dice.integers(1, 30))
        hits = int(dice.binomial(tries, rate))
        quiet = (int(dice.binomial(3, 0.8)), 3)
        made.append(Outcomes(name, {"selection": (hits, tries), "use": quiet, "success": quiet}))
    return made


def test_a_user_stays_in_their_arm_and_the_arms_have_their_shares() -> None:
    """Also as the share grows; another trial deals anew."""
    names = [f"user-{number}" for number in range(10_000)]
    small, large, other = trial_of(0.2), trial_of(0.6), trial_of(0.2, number=1)
    inside = {name for name in names if small.has(name)}

    assert 0.18 < len(inside) / len(names) < 0.22
    assert inside == {name for name in names if small.has(name)} < {name for name in names if large.has(name)}
    assert 0.15 < len(inside & {name for name in names if other.has(name)}) / len(inside) < 0.25


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_both_arms_need_users(share: float) -> None:
    with pytest.raises(InvalidInput, match="both arms"):
        trial_of(share)


def test_a_user_counts_for_their_arm_and_only_where_they_did_something() -> None:
    trial = trial_of()
    done = [Outcomes(f"user-{n}", {"selection": (n % 2, n % 3)}) for n in range(300)]
    serving, candidate = sums_of(trial, done, "selection")

    assert len(serving) + len(candidate) == 200
    own = [one.counts["selection"] for one in done if trial.has(one.user_id) and one.counts["selection"][1]]
    assert candidate.tolist() == [list(map(float, pair)) for pair in own]


def test_equal_spaces_look_different_in_at_most_five_of_a_hundred_trials() -> None:
    """Looked at 20 times each, with keen users who differ: far more looks than a fixed interval would stand."""
    alarms = 0
    for number in range(300):
        dice = np.random.default_rng(number)
        has, tries = dice.random(600) < 0.5, dice.integers(1, 30, 600)
        hits = dice.binomial(tries, np.clip(dice.normal(0.55, 0.25, 600), 0, 1))
        sums = np.column_stack([hits, tries]).astype(float)
        alarms += any(
            chance_of_no_difference(sums[:seen][~has[:seen]], sums[:seen][has[:seen]]) < ALPHA
            for seen in range(30, 601, 30)
        )

    assert alarms / 300 <= ALPHA


def test_a_better_space_is_found_and_a_worse_one_stopped() -> None:
    """Of 40 planted ones each, at 600 users: at least nine of ten, and none for its opposite."""
    for gain, verdict in ((0.15, "better"), (-0.15, "worse")):
        found = [
            advise(
                [_selection(trial_of(number=n), outcomes_of(trial_of(number=n), np.random.default_rng(n), 600, gain))]
            )
            for n in range(40)
        ]
        assert {one.verdict for one in found} <= {verdict, "keep_running"}
        assert sum(one.verdict == verdict for one in found) >= 36


def _selection(trial: Trial, done: list[Outcomes]) -> Compared:
    serving, candidate = sums_of(trial, done, "selection")
    own, other = figure_of(serving), figure_of(candidate)
    return Compared("selection", own, other, chance_of_no_difference(serving, candidate))


def test_one_keen_user_is_one_voice() -> None:
    """A difference that is certain of as many users is none of a few who did it again and again."""
    rng = np.random.default_rng(3)
    many = [np.column_stack([rng.random(400) < rate, np.ones(400)]).astype(float) for rate in (0.45, 0.65)]
    keen = [arm.reshape(20, 20, 2)[np.argsort(rng.random(20))].sum(axis=1) for arm in many]
    alike = [np.column_stack([np.repeat([0.0, 20.0], [20 - n, n]), np.full(20, 20.0)]) for n in (9, 13)]

    assert chance_of_no_difference(many[0], many[1]) < ALPHA / len(METRICS)
    assert chance_of_no_difference(keen[0], keen[1]) < ALPHA / len(METRICS)
    assert chance_of_no_difference(alike[0], alike[1]) > 0.5
    assert chance_of_no_difference(many[0][: LEAST_USERS - 1], many[1]) == 1.0


def test_the_advice_says_what_is_known() -> None:
    big, small = ArmFigure(200, 2000, 1000), ArmFigure(5, 9, 3)
    unclear = Compared("selection", big, big, 0.9, -0.05, 0.05)
    flat = Compared("selection", big, big, 0.9, -0.01, 0.015)
    better = Compared("use", big, ArmFigure(200, 2000, 1300), 1e-6, 0.1, 0.2)
    worse = Compared("success", big, ArmFigure(200, 2000, 700), 1e-6, -0.2, -0.1)
    unknown = Compared("success", small, ArmFigure(0, 0, 0), 1.0)

    assert advise([unknown]).verdict == "keep_running"
    assert advise([unclear, unknown]).verdict == "keep_running"
    assert advise([flat, unknown]).verdict == "not_better"
    assert advise([unclear, better]).verdict == "better"
    assert "Use: 65.0% of 2000 against 50.0% of 2000." in advise([unclear, better]).sentence
    assert advise([better, worse]).verdict == "worse", "a gain does not make up for a loss"


def test_the_report_has_a_verdict_figures_and_a_plot(tmp_path: Path) -> None:
    trial = trial_of()
    made = compare(trial, outcomes_of(trial, np.random.default_rng(1), 400, 0.2), FEW)
    page = write_trial_report(tmp_path / "report", made)
    text = page.read_text()

    selection = made.figures[0]
    assert selection.low is not None
    assert selection.difference is not None
    assert 0 < selection.low < selection.difference < (selection.high or 0)
    assert text.startswith("# Better\n\nThe candidate is better")
    assert f"| `selection` | {100 * (selection.serving.rate or 0):.1f} % " in text
    assert {path.name for path in page.parent.iterdir()} == {"report.md", "outcomes.png"}
    assert "user-" not in text
    empty = compare(trial, [], FEW)
    assert empty.advice.verdict == "keep_running"
    assert "nothing yet" in write_trial_report(tmp_path / "empty", empty).read_text()
