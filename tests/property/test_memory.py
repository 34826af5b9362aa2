"""What is decided about two memories holds for every spelling, order and text."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.memory import Draft, Memory, MemoryType, Neighbour, merged_confidence, resolve
from app.domain.wording import affirmed_and_denied, as_request, names, normalise, numbers, words
from tests.statements import contradiction, differing_detail, is_duplicate

NOW = datetime(2026, 1, 10, tzinfo=UTC)
QUICK = settings(max_examples=60, deadline=None)
PARTS = st.sampled_from(
    "I my we like use live in don't not never is at Paris Berlin Docker 5 two hundred , . but over from to moved "
    "prefer no longer used 東京 é e\u0301 ’ 🙂".split()
)
TEXTS = st.one_of(st.lists(PARTS, max_size=12).map(" ".join), st.text(max_size=40))
COSINES = st.floats(-1, 1)


@QUICK
@given(TEXTS, TEXTS, COSINES)
def test_being_a_duplicate_and_differing_have_no_direction(a: str, b: str, cosine: float) -> None:
    assert is_duplicate(a, b, cosine) == is_duplicate(b, a, cosine)
    assert differing_detail(a, b) == differing_detail(b, a)


@QUICK
@given(TEXTS, COSINES)
def test_a_text_is_its_own_duplicate_and_never_contradicts_itself(text: str, cosine: float) -> None:
    assert is_duplicate(text, f" {text}. ", cosine)
    assert differing_detail(text, text) is None


@QUICK
@given(TEXTS, TEXTS, COSINES)
def test_a_contradiction_has_a_known_reason(a: str, b: str, cosine: float) -> None:
    assert contradiction(a, b, cosine) in {None, "negation", "number", "value"}


@QUICK
@given(st.sampled_from(MemoryType), TEXTS, st.lists(st.tuples(TEXTS, COSINES, st.integers(-9, 9)), max_size=6))
def test_a_decision_names_only_neighbours_and_never_replaces_the_newer(
    kind: MemoryType, text: str, held: list[tuple[str, float, int]]
) -> None:
    neighbours = [
        Neighbour(Memory(UUID(int=n), "u", kind, content, 0.8, (), "api", NOW, NOW, NOW + timedelta(days=days)), cosine)
        for n, (content, cosine, days) in enumerate(held, 1)
    ]
    by_id = {neighbour.memory.memory_id: neighbour.memory for neighbour in neighbours}
    resolution = resolve(Draft(kind, text), NOW, neighbours)
    targets = [by_id[target] for target in resolution.targets]
    assert bool(targets) == (resolution.action != "add")
    if resolution.action == "supersede":
        assert all(target.valid_from <= NOW for target in targets)
    if resolution.action == "outdated":
        assert [target.valid_from > NOW for target in targets] == [True]
    if kind in {MemoryType.HISTORY, MemoryType.ARTIFACT}:
        assert resolution.action in {"add", "merge"}


@QUICK
@given(st.floats(0, 1), st.floats(0, 1))
def test_repeating_a_fact_never_makes_it_less_sure(held: float, again: float) -> None:
    merged = merged_confidence(held, again)
    assert max(held, again) <= merged <= 1
    assert merged == merged_confidence(again, held)


@QUICK
@given(TEXTS)
def test_reading_words_is_total_and_ignores_case(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert words(text) == [word.lower() for word in words(text)]
    assert as_request(text)
    assert names(text) is not None
    affirmed, denied = affirmed_and_denied(text)
    assert numbers(affirmed) | numbers(denied) <= numbers(text) | numbers(f"{affirmed} {denied}")


@QUICK
@given(st.integers(0, 999_999))
def test_digits_and_separators_name_the_same_number(value: int) -> None:
    assert numbers(f"{value:,} things") == numbers(f"{value} things") == {str(value)}
