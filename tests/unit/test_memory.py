"""When two memories are one, when one ends another, and when they stand side by side.

The cosines are those of all-MiniLM-L6-v2, to two places.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app.domain.memory import (
    MAX_EVIDENCE,
    Draft,
    Evidence,
    Memory,
    MemoryType,
    Neighbour,
    Resolution,
    merged_confidence,
    resolve,
    says_so_still,
    told_again,
)
from app.domain.statements import CONFLICT_COSINE, NEAR_DUPLICATE_COSINE
from tests.statements import contradiction, differing_detail, is_duplicate

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)

DUPLICATES = [
    ("I like coffee", "I like coffee.", 0.98),
    ("I like coffee", "  i LIKE   coffee !", 1.0),
    ("My favourite colour is blue", "My favorite color is blue", 0.97),
    ("I have 2 cats", "I have two cats", 0.99),
    ("I sleep 8 hours", "I sleep eight hours", 0.98),
    ("My budget is 1,000 EUR", "My budget is 1000 EUR", 0.97),
    ("I live in Zürich", "I live in Zu\u0308rich", 0.96),
    ("My name is François", "my name is FRANÇOIS", 1.0),
    ("My favourite team is Arsenal", "Arsenal is my favourite team", 0.96),
    ("I never eat meat", "I don't ever eat meat", 0.96),
]
NOT_DUPLICATES = [
    ("I have 2 cats", "I have 3 cats", 0.96, "number"),
    ("Flight LH 400 leaves at 9", "Flight LH 401 leaves at 9", 0.97, "number"),
    ("I have twenty-one books", "I have twenty-two books", 0.96, "number"),
    ("I am allergic to nuts", "I am not allergic to nuts", 0.97, "negation"),
    ("I use AWS", "I dont use AWS", 0.96, "negation"),
    ("Ran 5 km on Monday", "Ran 5 km on Tuesday", 0.97, "name"),
    ("ran 5 km on monday", "ran 5 km on tuesday", 0.97, "name"),
    ("Meeting with Bob at 3", "Meeting with Alice at 3", 0.96, "name"),
    ("我喜欢咖啡", "我喜欢茶", 0.995, "name"),
    ("أعيش في دبي", "أعيش في القاهرة", 0.96, "name"),
]
CONTRADICTIONS = [
    ("I like coffee", "I don't like coffee", 0.81, "negation"),
    ("I like coffee", "I dont like coffee", 0.82, "negation"),
    ("I like coffee", "I no longer like coffee", 0.76, "negation"),
    ("I love coffee", "I dislike coffee", 0.79, "negation"),
    ("I don't like coffee", "I like coffee", 0.81, "negation"),
    ("I drink coffee", "I stopped drinking coffee", 0.69, "negation"),
    ("I use AWS", "I stopped using AWS", 0.71, "negation"),
    ("I use AWS Lambda", "I don't use AWS", 0.74, "negation"),
    ("I am vegetarian", "I'm not vegetarian anymore", 0.86, "negation"),
    ("I'm not vegetarian anymore", "I am vegetarian", 0.86, "negation"),
    ("We use Jira", "We moved from Jira to Linear", 0.59, "negation"),
    ("I prefer coffee", "I prefer tea, not coffee", 0.84, "negation"),
    ("I live in Paris", "I used to live in Paris", 0.85, "negation"),
    ("I live in Paris", "I live in Berlin", 0.60, "value"),
    ("I live in Paris", "I moved to Berlin", 0.45, "value"),
    ("I live in Paris", "We have just moved to Berlin", 0.40, "value"),
    ("I live in Paris with my wife", "I live in Berlin", 0.55, "value"),
    ("I live in München", "I live in Köln", 0.72, "value"),
    ("My sister lives in Berlin", "My sister lives in Paris", 0.63, "value"),
    ("I work at Google", "I now work at Microsoft", 0.55, "value"),
    ("My budget is 500 EUR", "My budget is now 800 EUR", 0.91, "number"),
    ("My budget is five hundred euros", "My budget is eight hundred euros", 0.90, "number"),
    ("My budget is 500 EUR", "My budget is 800 dollars", 0.80, "value"),
    ("I'm 30", "I am 31", 0.90, "number"),
    ("Мой бюджет 500 евро", "Мой бюджет 800 евро", 0.92, "number"),
    ("No more than 500 words", "No more than 300 words", 0.90, "number"),
    ("My editor is Vim", "My editor is Emacs", 0.75, "value"),
    ("Vim is my editor", "Emacs is my editor", 0.72, "value"),
    ("My favourite colour is blue", "My favourite colour is green", 0.85, "value"),
    ("The deadline is Friday", "The deadline is Monday", 0.88, "value"),
    ("I prefer tea", "I prefer coffee", 0.74, "value"),
    ("I prefer window seats", "I prefer aisle seats", 0.75, "value"),
    ("Always answer in English", "Always answer in German", 0.80, "value"),
]
BOTH_TRUE = [
    ("I like Paris", "I like Berlin", 0.46),
    ("I use Python", "I use Docker", 0.44),
    ("I speak German", "I speak French", 0.72),
    ("I am learning Spanish", "I am learning French", 0.73),
    ("I learn Spanish", "I now learn French as well", 0.61),
    ("I like coffee", "I don't like tea", 0.52),
    ("I like coffee and tea", "I don't like coffee", 0.72),
    ("I use AWS", "I don't use AWS Lambda", 0.54),
    ("I live in Madrid", "I don't like Madrid", 0.63),
    ("I use Python at work", "I don't like Python", 0.67),
    ("I was born in Berlin", "We moved from Berlin to Paris", 0.58),
    ("I own a coffee machine", "I prefer green tea, not coffee", 0.41),
    ("I live in Berlin and don't have a car", "I have a car", 0.59),
    ("I live in Paris", "I don't live in Berlin", 0.46),
    ("I live in Paris", "I live in Paris with my wife", 0.86),
    ("I live in Paris", "I live with two cats", 0.40),
    ("I live in Paris", "My sister lives in Berlin", 0.44),
    ("My sister lives in Berlin", "My brother lives in Berlin", 0.75),
    ("I work at Google", "I work as an engineer", 0.46),
    ("I was born in Rome", "I was born in 1990", 0.56),
    ("I deploy with Docker", "I deploy to AWS", 0.62),
    ("I prefer Python for scripts", "I prefer Rust for systems", 0.45),
    ("I prefer coffee in the morning", "I prefer tea at night", 0.75),
    ("I live in Paris in summer", "I live in Rome during winter", 0.70),
    ("I prefer short answers", "I prefer answers in German", 0.50),
    ("I prefer tea", "I prefer trains", 0.52),
    ("My favourite colour is blue", "My favourite band is Blue", 0.77),
    ("My car is electric", "My car is red", 0.59),
    ("My wife is pregnant", "My wife is a doctor", 0.57),
    ("My daughter is 3", "My son is 5", 0.83),
    ("My budget for rent is 500 EUR", "My budget for food is 300 EUR", 0.60),
    ("I have 2 cats", "I have 3 dogs", 0.73),
    ("I have 3 meetings on Monday", "I have 2 meetings on Tuesday", 0.90),
    ("I want to read 2 books by May", "I want to read 3 books by June", 0.86),
    ("I own a bike", "I now own a car", 0.57),
    ("I have a cat named Tom", "I have a cat named Max", 0.75),
    ("I am allergic to nuts", "I am allergic to shellfish", 0.55),
    ("I feel 🙂 today", "I feel 😡 today", 1.0),
]


def memory(content: str, kind: MemoryType, valid_from: datetime = NOW - DAY, number: int = 1) -> Memory:
    return Memory(UUID(int=number), "u", kind, content, 0.8, (), "api", NOW, NOW, valid_from)


@pytest.mark.parametrize(("held", "again", "cosine"), DUPLICATES)
def test_duplicates_merge_in_both_directions(held: str, again: str, cosine: float) -> None:
    assert is_duplicate(again, held, cosine)
    assert is_duplicate(held, again, cosine)


@pytest.mark.parametrize(("held", "other", "cosine", "detail"), NOT_DUPLICATES)
def test_near_texts_that_differ_in_a_detail_do_not_merge(held: str, other: str, cosine: float, detail: str) -> None:
    assert cosine >= NEAR_DUPLICATE_COSINE
    assert differing_detail(other, held) == differing_detail(held, other) == detail
    assert not is_duplicate(other, held, cosine)


def test_near_is_at_the_threshold_and_not_below() -> None:
    assert is_duplicate("I like my coffee", "I like coffee", 0.95)
    assert not is_duplicate("I like my coffee", "I like coffee", 0.9499)


@pytest.mark.parametrize(("held", "newer", "cosine", "why"), CONTRADICTIONS)
def test_a_newer_memory_that_contradicts_supersedes(held: str, newer: str, cosine: float, why: str) -> None:
    old = memory(held, MemoryType.PROFILE)
    resolution = resolve(Draft(MemoryType.PROFILE, newer), NOW, [Neighbour(old, cosine)])
    assert resolution == Resolution("supersede", (old.memory_id,), why)


@pytest.mark.parametrize(("held", "newer", "cosine"), BOTH_TRUE)
def test_what_can_both_be_true_is_kept_side_by_side(held: str, newer: str, cosine: float) -> None:
    old = memory(held, MemoryType.PROFILE)
    assert resolve(Draft(MemoryType.PROFILE, newer), NOW, [Neighbour(old, cosine)]) == Resolution("add")


@pytest.mark.parametrize("kind", [MemoryType.HISTORY, MemoryType.ARTIFACT])
def test_what_happened_stays_true(kind: MemoryType) -> None:
    for held, newer, cosine, _ in CONTRADICTIONS:
        assert resolve(Draft(kind, newer), NOW, [Neighbour(memory(held, kind), cosine)]).action == "add"
    meetings = [Neighbour(memory("Meeting with Bob at 3", kind), 0.72)]
    assert resolve(Draft(kind, "Meeting with Alice at 3"), NOW, meetings).action == "add"
    assert resolve(Draft(kind, "meeting with Bob at 3."), NOW, meetings).action == "merge"


def test_far_memories_are_never_in_conflict() -> None:
    assert contradiction("I don't like coffee", "I like coffee", CONFLICT_COSINE - 0.01) is None


def test_an_older_truth_that_arrives_late_is_outdated_by_the_first_that_followed_it() -> None:
    rome = memory("I live in Rome", MemoryType.PROFILE, NOW - 2 * DAY, 1)
    oslo = memory("I live in Oslo", MemoryType.PROFILE, NOW - 5 * DAY, 2)
    draft = Draft(MemoryType.PROFILE, "I live in Paris", valid_from=NOW - 9 * DAY)
    resolution = resolve(draft, NOW - 9 * DAY, [Neighbour(rome, 0.7), Neighbour(oslo, 0.6)])
    assert resolution == Resolution("outdated", (oslo.memory_id,), "value")


def test_all_that_a_draft_contradicts_is_superseded_at_once() -> None:
    held = [memory(text, MemoryType.PREFERENCE, number=n) for n, text in enumerate(["I like tea", "I love tea"], 1)]
    neighbours = [Neighbour(each, 0.8) for each in held]
    resolution = resolve(Draft(MemoryType.PREFERENCE, "I don't like tea"), NOW, neighbours)
    assert resolution == Resolution("supersede", (UUID(int=1), UUID(int=2)), "negation")


def test_saying_it_again_wins_over_a_conflict_with_another() -> None:
    same = memory("I don't like coffee", MemoryType.PREFERENCE, number=1)
    other = memory("I like coffee", MemoryType.PREFERENCE, number=2)
    neighbours = [Neighbour(other, 0.96), Neighbour(same, 0.95)]
    resolution = resolve(Draft(MemoryType.PREFERENCE, "I don't like coffee!"), NOW, neighbours)
    assert resolution == Resolution("merge", (UUID(int=1),), "duplicate")


@pytest.mark.parametrize(
    ("turn", "valid_from", "action"),
    [(3, None, "merge"), (77, NOW, "add"), (77, NOW - DAY, "merge"), (None, NOW, "add"), (None, None, "merge")],
    ids=["its number", "another turn", "its moment", "another moment", "nothing tells them apart"],
)
def test_a_turn_is_the_same_by_its_number_or_its_moment(
    turn: int | None, valid_from: datetime | None, action: str
) -> None:
    held = replace(memory("Yes, I did.", MemoryType.HISTORY), session="talk", turn=3, speaker="user")
    draft = Draft(MemoryType.HISTORY, "Yes, I did.", session="talk", turn=turn, speaker="user", valid_from=valid_from)
    assert resolve(draft, valid_from or NOW, [Neighbour(held, 1.0)]).action == action
    other = replace(draft, session="another")
    assert resolve(other, valid_from or NOW, [Neighbour(held, 1.0)]).action == "add"


def test_nothing_known_means_add() -> None:
    assert resolve(Draft(MemoryType.GOAL, "I want to run"), NOW, []) == Resolution("add")


def test_a_memory_holds_from_its_beginning_to_just_before_its_end() -> None:
    held = Memory(UUID(int=1), "u", MemoryType.GOAL, "x", 1, (), "api", NOW, NOW, NOW, NOW + 2 * DAY, NOW + DAY)
    assert not held.is_valid_at(NOW - timedelta(microseconds=1))
    assert held.is_valid_at(NOW)
    assert not held.is_valid_at(NOW + DAY)


def test_what_a_memory_said_is_true_until_its_new_wording_holds() -> None:
    then = memory("I live in Paris", MemoryType.PROFILE)
    assert says_so_still(then, then, NOW)
    assert not says_so_still(then, replace(then, valid_to=NOW), NOW)
    assert not says_so_still(then, replace(then, content="I live in Lyon", valid_from=NOW), NOW)
    assert says_so_still(then, replace(then, content="I live in Lyon", valid_from=NOW + DAY), NOW)
    assert says_so_still(replace(then, tags=("old",)), then, NOW)


def test_every_telling_of_a_memory_stays_with_it() -> None:
    """Each once, the first for good, of the others the latest."""
    first = replace(memory("I live in Lyon", MemoryType.PROFILE), source="turn:one:1", quote="I live in Lyon")

    def told(held: Memory, source: str, quote: str | None) -> Memory:
        return told_again(held, Draft(MemoryType.PROFILE, "I live in Lyon", source=source, quote=quote), NOW)

    again = told(told(first, "turn:two:5", "Lyon is where I live"), "turn:two:5", "Lyon is where I live")
    assert again.proof_count == 3
    assert again.evidence == (Evidence("turn:one:1", first.quote), Evidence("turn:two:5", "Lyon is where I live"))
    often = first
    for number in range(MAX_EVIDENCE + 5):
        often = told(often, f"turn:many:{number}", "I live in Lyon")
    assert often.evidence[0] == Evidence("turn:one:1", first.quote)
    assert len(often.later_evidence) == MAX_EVIDENCE
    assert often.evidence[-1].source == f"turn:many:{MAX_EVIDENCE + 4}"
    bare = told(replace(first, source="api", quote=None), "turn:two:5", "I live in Lyon")
    assert (bare.quote, bare.told_as, bare.source) == (None, "I live in Lyon", "api")


def test_hearing_a_fact_again_makes_it_surer() -> None:
    assert merged_confidence(0.8, 0.8) == pytest.approx(0.84)
    assert merged_confidence(0.2, 0.9) == merged_confidence(0.9, 0.2) > 0.9
    assert merged_confidence(1.0, 0.3) == 1.0
