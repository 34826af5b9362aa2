"""Routes: whatever is promoted and rolled back, everybody is answered by one adapter, and a rollback undoes; the
canary's test is wrong as seldom as it says, and finds what it is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.deployments import LEAST_ANSWERS, Arm, Route, chance_of_drop
from app.domain.errors import InvalidInput

QUICK = settings(max_examples=200, deadline=None)
ADAPTERS = st.sampled_from(["run-a", "run-b", "run-c"])
SHARES = st.floats(0.01, 1) | st.just(1.0)
STEPS = st.lists(st.tuples(st.just("promote"), ADAPTERS, SHARES) | st.tuples(st.just("rollback"), ADAPTERS, SHARES))
USERS = [f"user-{number}" for number in range(300)]


def stepped(route: Route, step: tuple[str, str, float]) -> Route:
    """The route after a step; unchanged by one that means nothing."""
    action, adapter, share = step
    try:
        return route.promoted(adapter, share) if action == "promote" else route.rolled_back(adapter)
    except InvalidInput:
        return route


def routed(steps: list[tuple[str, str, float]]) -> Route:
    route = Route()
    for step in steps:
        route = stepped(route, step)
    return route


@QUICK
@given(STEPS, st.text(max_size=20))
def test_any_history_answers_everybody(steps: list[tuple[str, str, float]], user: str) -> None:
    """By one of two: the stable adapter, or the candidate where there is one."""
    route = routed(steps)

    assert route.adapter_for(user) == route.adapter_for(user)
    assert route.adapter_for(user) in {route.stable, route.candidate}
    assert len(set(route.stack)) == len(route.stack)
    assert (route.candidate is None) == (route.share == 0)
    assert route.candidate is None or route.candidate != route.stable
    assert all(route.serves(adapter) for adapter in (route.stable, route.candidate) if adapter is not None)


@QUICK
@given(STEPS, ADAPTERS, SHARES)
def test_a_rollback_undoes_a_promotion(steps: list[tuple[str, str, float]], adapter: str, share: float) -> None:
    """Of one that was not known before: the stack is what it was, and nobody is on trial."""
    before = routed(steps)
    if adapter in {*before.stack, before.candidate} or before.candidate is not None:
        return

    assert before.promoted(adapter, share).rolled_back(adapter) == before


@QUICK
@given(STEPS, ADAPTERS)
def test_nothing_is_served_after_its_rollback(steps: list[tuple[str, str, float]], adapter: str) -> None:
    before = routed(steps)
    if not before.serves(adapter):
        return

    after = before.rolled_back(adapter)

    assert not after.serves(adapter)
    assert adapter not in {after.adapter_for(user) for user in USERS[:50]}


@QUICK
@given(ADAPTERS, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_growing_share_keeps_its_users(adapter: str, one: float, other: float) -> None:
    small, large = sorted([one, other])
    on_trial = {user for user in USERS if Route().promoted(adapter, small).adapter_for(user) == adapter}

    still = {user for user in USERS if Route().promoted(adapter, large).adapter_for(user) == adapter}

    assert on_trial <= still


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_a_share_is_that_share_of_the_users(share: float) -> None:
    """Within four deviations of a fair draw; two adapters draw different users."""
    users = [f"user-{number}" for number in range(20_000)]
    drawn = {
        adapter: {user for user in users if Route((), adapter, share).adapter_for(user) == adapter}
        for adapter in ("run-a", "run-b")
    }

    deviation = (share * (1 - share) / len(users)) ** 0.5
    for found in drawn.values():
        assert abs(len(found) / len(users) - share) < 4 * deviation
    both = len(drawn["run-a"] & drawn["run-b"]) / len(users)
    assert abs(both - share**2) < 4 * (share**2 * (1 - share**2) / len(users)) ** 0.5


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(InvalidInput):
        Route().promoted("run-a", share)


def test_one_is_tried_at_a_time() -> None:
    with pytest.raises(InvalidInput, match="run-a is being tried"):
        Route().promoted("run-a", 0.1).promoted("run-b", 0.1)


def looked_at(rng: np.random.Generator, rates: tuple[float, float], share: float, answers: int) -> float:
    """The smallest chance that was seen in a trial that is looked at after every answer."""
    is_canary = rng.random(answers) < share
    is_selected = rng.random(answers) < np.where(is_canary, rates[1], rates[0])
    counts = np.cumsum([~is_canary, ~is_canary & is_selected, is_canary, is_canary & is_selected], axis=1)
    return min(
        chance_of_drop(Arm(int(served), int(chosen)), Arm(int(tried), int(taken)))
        for served, chosen, tried, taken in counts.T
    )


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_a_canary_that_is_no_worse_is_seldom_rolled_back(rate: float, share: float) -> None:
    """A against A, looked at after each of 1,000 answers: over 300 trials the chance falls below alpha in at most a
    share alpha of them, but for what a fair draw of 300 allows."""
    rng = np.random.default_rng(11)
    least = np.array([looked_at(rng, (rate, rate), share, 1000) for _ in range(300)])

    for alpha in (0.01, 0.05):
        false_alarms = float(np.mean(least < alpha))
        assert false_alarms <= alpha + 2.5 * (alpha * (1 - alpha) / 300) ** 0.5, (alpha, false_alarms)


@pytest.mark.parametrize(("rates", "share", "answers"), [((0.6, 0.3), 0.1, 1500), ((0.6, 0.4), 0.5, 800)])
def test_a_canary_that_is_worse_is_found(rates: tuple[float, float], share: float, answers: int) -> None:
    rng = np.random.default_rng(12)
    found = np.mean([looked_at(rng, rates, share, answers) < 0.01 for _ in range(100)])

    assert found >= 0.9, found


@QUICK
@given(st.integers(0, 5000), st.integers(0, 5000), st.floats(0, 1), st.floats(0, 1))
def test_the_chance_is_a_probability(served: int, tried: int, first: float, second: float) -> None:
    serving, canary = Arm(served, round(first * served)), Arm(tried, round(second * tried))

    chance = chance_of_drop(serving, canary)

    assert 0 <= chance <= 1
    if canary.rate >= serving.rate or min(served, tried) < LEAST_ANSWERS:
        assert chance == 1
