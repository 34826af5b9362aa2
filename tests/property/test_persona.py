"""Facets stay in their range and move the way the evidence points, whatever is thrown at them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.persona import MAX_STRENGTH, Facet, Persona, Signal, apply_deltas, describe, heuristic_deltas, moved

QUICK = settings(max_examples=50, deadline=None)
DELTAS = st.floats(allow_nan=True, allow_infinity=True)
FACETS = st.builds(Facet, st.sampled_from(["concise", "formal", "own"]), st.floats(0, 1), st.floats(0.5, MAX_STRENGTH))
WORDS = st.sampled_from(
    ["too brief", "too long", "not", "more detail", "code first", "shorter", "never", ",", "é", "’"]
)


@QUICK
@given(FACETS, st.lists(DELTAS, max_size=9))
def test_a_facet_stays_in_range_and_follows_the_evidence(facet: Facet, deltas: list[float]) -> None:
    for delta in deltas:
        after = moved(facet, delta)
        assert 0 <= after.value <= 1
        assert after.strength <= MAX_STRENGTH
        assert 0 <= after.uncertainty <= 0.5
        if after != facet:
            assert (after.value - facet.value) * delta >= -1e-12
        facet = after


@QUICK
@given(FACETS, st.floats(0.001, 1))
def test_agreeing_evidence_moves_a_sure_facet_less(facet: Facet, delta: float) -> None:
    surer = Facet(facet.name, facet.value, min(MAX_STRENGTH, facet.strength * 2))
    assert moved(surer, delta).value - surer.value <= moved(facet, delta).value - facet.value + 1e-12


@QUICK
@given(st.lists(WORDS, max_size=12).map(" ".join), st.text(max_size=40), st.floats(-1, 1), st.lists(FACETS, max_size=3))
def test_any_signal_gives_small_deltas_that_apply(
    comment: str, chosen: str, rating: float, facets: list[Facet]
) -> None:
    held = {facet.name: facet for facet in facets}
    deltas = heuristic_deltas(Signal("feedback", held, chosen, (chosen,), comment, rating))
    assert all(0 < abs(delta) <= 1 for delta in deltas.values())
    after, changes = apply_deltas(Persona("u", held), deltas, "r")
    assert after.version == bool(changes)
    assert {change.facet for change in changes} <= set(deltas)
    describe(after.facets)
