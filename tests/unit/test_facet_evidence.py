"""What a user's evidence says of their facets, and what the users of a tenant are like."""

import math
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest

from app.domain.facet_evidence import (
    LEAST_MOVE,
    LEAST_USERS,
    Evidence,
    FacetPrior,
    believed,
    changes_between,
    learned_prior,
)
from app.domain.persona import DEFAULT_FACETS, NEUTRAL_VARIANCE, Belief, Carried, Facet, told

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DEFAULT = {name: Facet(name) for name in DEFAULT_FACETS}
HALF_LIFE = 180.0


def said(at: datetime = NOW, **deltas: float) -> Evidence:
    return Evidence(uuid4(), at, remark=deltas)


def took(*shown: dict[str, float], at: datetime = NOW) -> Evidence:
    """The first of the options."""
    return Evidence(uuid4(), at, shown, 0)


def after(*evidence: Evidence, facets: dict[str, Facet] = DEFAULT, prior: FacetPrior | None = None) -> dict[str, Facet]:
    return believed(facets, evidence, prior or FacetPrior(), NOW, HALF_LIFE)


def test_a_remark_of_a_tenth_is_one_observation() -> None:
    """As a Beta of two observations moves: 1/2 to 2/3, its variance from 1/12 to 1/18."""
    facet = after(said(concise=0.1))["concise"]
    assert (facet.value, facet.variance) == (pytest.approx(2 / 3), pytest.approx(1 / 18))
    assert after(said(concise=-0.1))["concise"].value == pytest.approx(1 / 3)
    assert (facet.evidence, facet.evidence_at, facet.updated_at) == (1, NOW, NOW)


def test_one_remark_does_not_yet_shape_a_prompt_and_a_few_do() -> None:
    count = 1
    while not after(*(said(concise=0.1) for _ in range(count)))["concise"].is_expressed:
        count += 1
    assert 2 <= count <= 6


def test_a_choice_is_a_comparison() -> None:
    """Towards what the chosen one has and the others lack, away from what was passed over; nothing else moves."""
    moved = after(took({"concise": 1.0}, {"code_first": 1.0}, {}))
    assert moved["concise"].value > 0.6
    assert moved["code_first"].value < 0.45
    assert moved["formal"] == after()["formal"]
    assert (moved["concise"].evidence, moved["formal"].evidence) == (1, 0)
    assert after(took({"concise": 1.0}, {"concise": 1.0})) == after()


def test_what_one_trait_explains_is_not_put_down_to_another() -> None:
    """A short piece of code against a long text: with a pinned love of short answers, code has less of it."""
    choices = [took({"concise": 1.0, "code_first": 1.0}, {"concise": -1.0}) for _ in range(3)]
    alone = after(*choices)["code_first"].value
    facets = {**DEFAULT, "concise": told(Facet("concise"), 1.0, NOW, is_pinned=True)}
    explained = after(*choices, facets=facets)
    assert 0.5 < explained["code_first"].value < alone
    assert explained["concise"] == facets["concise"]


def test_what_the_user_said_stands_in_the_place_of_what_was_before() -> None:
    earlier, later = NOW - timedelta(days=2), NOW + timedelta(minutes=1)
    facets = {**DEFAULT, "concise": told(Facet("concise"), 0.2, NOW - timedelta(days=1), is_pinned=False)}
    old = [said(earlier, concise=0.1) for _ in range(50)]
    facet = after(*old, took({"concise": 1.0}, {}, at=earlier), facets=facets)["concise"]
    assert (facet.value, facet.evidence) == (0.2, 0)
    moved = after(*old, said(later, concise=0.1), facets=facets)["concise"]
    assert 0.2 < moved.value < 0.25
    assert moved.evidence == 1


def test_older_evidence_counts_less() -> None:
    long_ago = NOW - timedelta(days=HALF_LIFE)
    facet = after(said(long_ago, concise=0.1))["concise"]
    assert facet.variance == pytest.approx(1 / (12 + 3))
    assert after(took({"concise": 1.0}, {}, at=long_ago))["concise"].value > 0.5
    assert (
        after(took({"concise": 1.0}, {}, at=long_ago))["concise"].value
        < after(took({"concise": 1.0}, {}))["concise"].value
    )


def test_what_was_carried_along_is_where_it_was_and_fades() -> None:
    """The mean and the variance of the Beta of an earlier release."""
    carried = Carried(Belief(0.8, 0.01), 12, NOW)
    facets = {**DEFAULT, "concise": Facet("concise", carried=carried)}
    facet = after(facets=facets)["concise"]
    assert (facet.value, facet.variance, facet.evidence) == (pytest.approx(0.8), pytest.approx(0.01), 12)
    later = believed(facets, [], FacetPrior(), NOW + timedelta(days=HALF_LIFE), HALF_LIFE)["concise"]
    assert later.variance == pytest.approx(1 / (12 + 0.5 * 88))


def test_a_facet_linked_to_another_moves_with_it() -> None:
    """By what the tenant's users are like; but it shapes no prompt without evidence of its own."""
    share = 0.8 * NEUTRAL_VARIANCE
    prior = FacetPrior(
        ("code_first", "concise"), np.zeros(2), np.array([[NEUTRAL_VARIANCE, share], [share, NEUTRAL_VARIANCE]])
    )
    moved = after(*(said(concise=0.1) for _ in range(9)), took({"concise": 1.0}, {}), prior=prior)
    assert moved["code_first"].value > 0.75
    assert not moved["code_first"].is_expressed
    assert moved["concise"].is_expressed
    assert moved["formal"].value == 0.5
    told_of = {each.facet for each in changes_between(DEFAULT, moved, frozenset({"concise"}), "because")}
    assert told_of == {"concise", "code_first"}


def test_small_moves_of_others_are_not_told() -> None:
    before = {"a": Facet("a"), "b": Facet("b"), "c": Facet("c", 0.5, 0.05)}
    moved = {"a": Facet("a", 0.5 + LEAST_MOVE / 2), "b": Facet("b", 0.5 + LEAST_MOVE), "c": Facet("c", 0.5, 0.04)}
    assert [each.facet for each in changes_between(before, moved, frozenset(), "r")] == ["b"]
    assert [each.facet for each in changes_between(before, moved, frozenset("ac"), "r")] == ["a", "b", "c"]


def population(count: int, chances: np.random.Generator) -> list[tuple[dict[str, Facet], list[Evidence]]]:
    """Users of whom those who like short answers like code first."""
    people: list[tuple[dict[str, Facet], list[Evidence]]] = []
    for _ in range(count):
        way = 0.1 if chances.random() < 0.7 else -0.1
        people.append((DEFAULT, [said(concise=way, code_first=way) for _ in range(6)]))
    return people


def test_a_prior_tells_what_users_are_like_and_what_goes_together() -> None:
    prior = learned_prior(population(200, np.random.default_rng(1)), NOW, HALF_LIFE)
    assert prior is not None
    assert (prior.names, prior.users) == (DEFAULT_FACETS, 200)
    made = prior.of(["code_first", "concise", "formal", "own"])
    assert made.mean[0] == pytest.approx(made.mean[1])
    assert made.mean[0] > 0.05
    assert made.mean[2] == made.mean[3] == 0.0
    linked = made.covariance[0, 1] / math.sqrt(made.covariance[0, 0] * made.covariance[1, 1])
    assert linked > 0.4
    assert made.covariance[0, 2] == pytest.approx(0.0, abs=1e-12)
    assert made.covariance[3, 3] == NEUTRAL_VARIANCE


def test_a_prior_helps_those_who_said_little() -> None:
    """Of one choice each, the facets of new users are told nearer with it than without."""
    chances = np.random.default_rng(2)
    prior = learned_prior(population(300, chances), NOW, HALF_LIFE)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(100):
        likes = 1.0 if chances.random() < 0.7 else -1.0
        choice = took({"concise": likes}, {})
        for is_learned, squares in errors.items():
            found = after(choice, prior=prior if is_learned else None)["code_first"]
            squares.append((found.mean - (0.5 + 0.5 * likes)) ** 2)
    assert np.mean(errors[True]) < 0.9 * np.mean(errors[False])


def test_there_is_no_prior_of_few_users() -> None:
    people = population(LEAST_USERS, np.random.default_rng(3))
    assert learned_prior(people, NOW, HALF_LIFE) is not None
    assert learned_prior(people[1:], NOW, HALF_LIFE) is None
    silent = [(DEFAULT, list[Evidence]()) for _ in range(100)]
    assert learned_prior([*people[1:], *silent], NOW, HALF_LIFE) is None


def test_a_facet_of_few_users_is_in_no_prior() -> None:
    """Its very name might tell who has it."""
    people = population(LEAST_USERS + 5, np.random.default_rng(4))
    rare = [({**facets, "rare": told(Facet("rare"), 0.9, NOW, is_pinned=False)}, each) for facets, each in people]
    few = learned_prior([*rare[: LEAST_USERS - 1], *people[LEAST_USERS - 1 :]], NOW, HALF_LIFE)
    many = learned_prior(rare, NOW, HALF_LIFE)
    assert few is not None
    assert many is not None
    assert "rare" not in few.names
    assert "rare" in many.names


def test_evidence_without_a_facet() -> None:
    evidence = Evidence(uuid4(), NOW, ({"concise": 1.0, "own": 1.0}, {"own": -1.0}), 0, {"concise": 0.1})
    left = evidence.without("concise")
    assert left.facets == {"own"}
    assert left.without("own").facets == frozenset()
    assert evidence.facets == {"concise", "own"}
