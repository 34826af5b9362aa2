"""What a sample teaches: the rows have the shapes the service asks and reads, and every policy holds."""

import json
from typing import Any

import jsonschema_rs
import pytest

from app.clients.slm import answers
from app.domain import datasets, lessons
from app.domain.datasets import (
    CHAT,
    FACETS,
    PREFERENCES,
    RERANK,
    DatasetOptions,
    SplitKey,
    Tally,
)
from app.domain.errors import InvalidInput
from app.domain.instructions import (
    HYPOTHESES,
    MOST_RELEVANCE,
    facets_instruction,
    hypotheses_instruction,
    relevance_instruction,
)
from app.domain.lessons import Dropped, Lesson, Taught, taught_by
from app.domain.training import HYPOTHESES_FILE, PERSONA_FILE, PREFERENCES_FILE, RANKING_FILE, Sample

KEY = SplitKey(b"k" * 32)
PORTO = {"type": "PROFILE", "content": "I lead a bakery in Porto", "date": "2025-01-01"}
SHORT = {"type": "PREFERENCE", "content": "I like short texts", "date": "2025-02-01"}


def choice(**given: Any) -> Sample:
    return {
        "timestamp": "2026-01-01T00:00:00Z",
        "user_id": "ann",
        "user_input": "write ad",
        "context": {
            "persona_facets": {"concise": 0.9, "formal": 0.5},
            "recent_goals": ["sell bread"],
            "preferences": ["I like short texts"],
            "memories": [PORTO, SHORT],
        },
        "hypotheses": [
            {"id": "h1", "question": "Do you want a job ad?", "request": "Write a job ad.", "confidence": 0.5},
            {
                "id": "h2",
                "question": "Do you want an ad for your bakery in Porto?",
                "request": "Write an ad for my bakery in Porto.",
                "confidence": 0.3,
                "evidence": ["id-of-porto"],
            },
            {"id": "h3", "question": "Do you want a class ad?", "request": "Write a class ad.", "confidence": 0.1},
        ],
        "selected_id": "h2",
        "label": "positive",
        "schema_version": 2,
        **given,
    }


def lesson(taught: Taught, name: str) -> Lesson:
    found = taught.lessons[name]
    assert isinstance(found, Lesson), found
    return found


def reason(taught: Taught, name: str) -> str:
    found = taught.lessons[name]
    assert isinstance(found, Dropped), found
    return found.reason


def of_choice(rejected: frozenset[str] = frozenset(), **given: Any) -> Taught:
    return taught_by(HYPOTHESES_FILE, choice(**given), KEY, rejected)


def said(messages: list[dict[str, str]]) -> Any:
    (message,) = messages
    assert message["role"] == "assistant"
    return json.loads(message["content"])


def test_the_relevances_that_are_taught_are_within_the_scale() -> None:
    assert 0 <= lessons.UNUSED_RELEVANCE < lessons.USED_RELEVANCE <= MOST_RELEVANCE


def test_a_chat_row_is_what_the_service_asks_and_reads() -> None:
    ((row, label),) = lesson(of_choice(), CHAT).rows
    told = {"persona_facets": {"concise": 0.9}, "memories": [PORTO, SHORT]}
    assert row["prompt"] == hypotheses_instruction("write ad", told, 3).messages
    text = row["completion"][0]["content"]
    jsonschema_rs.validate(answers.hypotheses_schema(3), json.loads(text))
    read = answers.parse(text, answers.Proposals)
    assert [one.request for one in read.hypotheses] == [
        "Write an ad for my bakery in Porto.",
        "Write a job ad.",
        "Write a class ad.",
    ]
    assert [one.confidence for one in read.hypotheses] == [90, 3, 3]
    assert [one.memories for one in read.hypotheses] == [[1], [], []]
    assert label == "shown as 2 of 3"


def test_samples_of_the_first_version_are_understood() -> None:
    old = choice(schema_version=1)
    for shown in old["hypotheses"]:
        del shown["request"]
    old["context"].pop("memories")
    ((row, _),) = lesson(taught_by(HYPOTHESES_FILE, old, KEY), CHAT).rows
    told = {
        "persona_facets": {"concise": 0.9},
        "recent_goals": ["sell bread"],
        "preferences": ["I like short texts"],
    }
    assert row["prompt"] == hypotheses_instruction("write ad", told, 3).messages
    assert said(row["completion"])["hypotheses"][0]["request"] == "I want an ad for my bakery in Porto."


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [([], []), (["porto"], [1]), (["porto", "unknown"], []), (["a", "b", "c", "d"], [])],
)
def test_memories_are_cited_only_where_their_number_fits(evidence: list[str], expected: list[int]) -> None:
    sample = choice()
    sample["hypotheses"][1]["evidence"] = evidence
    ((row, _),) = lesson(taught_by(HYPOTHESES_FILE, sample, KEY), CHAT).rows
    assert said(row["completion"])["hypotheses"][0]["memories"] == expected


def test_pairs_set_the_choice_against_every_other() -> None:
    rows = lesson(of_choice(frozenset({"h3"})), PREFERENCES).rows
    assert [label for _, label in rows] == ["selection", "rejection"]
    for (row, _), worse in zip(rows, ["Write a job ad.", "Write a class ad."], strict=True):
        assert row["prompt"][1]["content"].endswith("<input>write ad</input>\nGive 1 reading of this input.")
        better = said(row["chosen"])["hypotheses"]
        other = said(row["rejected"])["hypotheses"]
        jsonschema_rs.validate(answers.hypotheses_schema(1), {"hypotheses": other})
        assert [one["request"] for one in (*better, *other)] == ["Write an ad for my bakery in Porto.", worse]
        assert better[0]["confidence"] == other[0]["confidence"]
        assert row["reward"] == 1.0


def test_where_nothing_was_chosen_only_what_was_turned_down_teaches() -> None:
    none = {"selected_id": None, "label": "negative"}
    assert [reason(of_choice(**none), name) for name in (CHAT, PREFERENCES)] == ["nothing_chosen"] * 2
    turned_down = of_choice(frozenset({"h1", "h3"}), **none)
    assert reason(turned_down, CHAT) == "nothing_chosen"
    rows = lesson(turned_down, PREFERENCES).rows
    pairs = [[said(row[half])["hypotheses"][0]["request"] for half in ("chosen", "rejected")] for row, _ in rows]
    stood = "Write an ad for my bakery in Porto."
    assert pairs == [[stood, "Write a job ad."], [stood, "Write a class ad."]]
    assert reason(of_choice(frozenset({"h1", "h2", "h3"}), **none), PREFERENCES) == "nothing_chosen"


@pytest.mark.parametrize(("rejected", "given"), [(frozenset({"h2"}), {}), (frozenset[str](), {"label": "negative"})])
def test_a_choice_that_was_turned_down_afterwards_teaches_nothing(rejected: frozenset[str], given: Any) -> None:
    taught = of_choice(rejected, **given)
    assert [reason(taught, name) for name in (CHAT, PREFERENCES)] == ["turned_down"] * 2


def test_a_single_hypothesis_has_nothing_to_be_preferred_to() -> None:
    taught = of_choice(hypotheses=[choice()["hypotheses"][1]])
    assert said(lesson(taught, CHAT).rows[0][0]["completion"])["hypotheses"][0]["confidence"] == 90
    assert reason(taught, PREFERENCES) == "nothing_to_compare"


@pytest.mark.parametrize(
    "damage",
    [
        {"hypotheses": "h1"},
        {"hypotheses": []},
        {"user_input": None},
        {"context": {"memories": [{"type": "GOAL"}]}},
        {"selected_id": "h9"},
    ],
)
def test_a_sample_of_another_shape_is_malformed(damage: dict[str, Any]) -> None:
    assert [reason(of_choice(**damage), name) for name in (CHAT, PREFERENCES)] == ["malformed"] * 2


def test_long_texts_are_cut_between_words() -> None:
    sample = choice()
    sample["hypotheses"][1]["question"] = "Do you want " + "a very long ad " * 20 + "?"
    ((row, _),) = lesson(taught_by(HYPOTHESES_FILE, sample, KEY), CHAT).rows
    question = said(row["completion"])["hypotheses"][0]["question"]
    jsonschema_rs.validate(answers.hypotheses_schema(3), said(row["completion"]))
    assert question[:-1] in sample["hypotheses"][1]["question"]
    assert question.endswith(" …") is False
    assert question.endswith(("a…", "very…", "long…", "ad…"))


def comparison(**given: Any) -> Taught:
    sample = {"hypothesis_a": "Do you want X?", "hypothesis_b": "Do you want Y?", "preferred": "hypothesis_b"}
    return taught_by(PREFERENCES_FILE, {**sample, **given}, KEY)


def test_comparisons_tell_nothing_and_keep_their_reward() -> None:
    ((row, label),) = lesson(comparison(reward=0.25), PREFERENCES).rows
    assert row["prompt"] == hypotheses_instruction("", {}, 1).messages
    assert row["prompt"][0]["content"] == HYPOTHESES
    assert said(row["chosen"])["hypotheses"][0]["question"] == "Do you want Y?"
    assert said(row["rejected"])["hypotheses"][0]["question"] == "Do you want X?"
    assert (row["reward"], label) == (0.25, "comparison")
    assert lesson(comparison(), PREFERENCES).rows[0][0]["reward"] == 1.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"preferred": "tie"}, "tie"),
        ({"preferred": "both"}, "malformed"),
        ({"hypothesis_a": "Do  you want Y?"}, "nothing_to_compare"),
        ({"hypothesis_a": " "}, "nothing_to_compare"),
    ],
)
def test_comparisons_without_a_winner_are_dropped(given: dict[str, str], expected: str) -> None:
    assert reason(comparison(**given), PREFERENCES) == expected


def test_swapped_comparisons_say_the_opposite_not_the_same() -> None:
    assert comparison().said != comparison(preferred="hypothesis_a").said


MOVE = {
    "signal": {"kind": "feedback", "feedback": "far too long", "rejected": [], "rating": None},
    "persona_facets": {"formal": 0.5, "concise": 0.6},
    "updates": {"concise": 0.15, "unknown": 0.3},
    "source": "local",
}


def test_a_facet_row_wishes_the_nearest_to_what_was_moved() -> None:
    ((row, label),) = lesson(taught_by(PERSONA_FILE, MOVE, KEY), FACETS).rows
    assert row["prompt"] == facets_instruction(MOVE["signal"], MOVE["persona_facets"]).messages
    jsonschema_rs.validate(answers.wishes_schema(["concise", "formal"]), said(row["completion"]))
    read = answers.parse(row["completion"][0]["content"], answers.Wishes)
    assert read.facets == {"concise": "much more", "formal": "same"}
    assert label == "concise much more"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"signal": {"kind": "selection", "chosen": "x"}}, "made_by_rules"),
        ({"signal": {"feedback": "  "}, "source": None}, "made_by_rules"),
        ({"updates": {"concise": 0.01}}, "nothing_moved"),
        ({"persona_facets": {}}, "malformed"),
    ],
)
def test_facet_moves_that_teach_nothing(given: dict[str, Any], expected: str) -> None:
    assert reason(taught_by(PERSONA_FILE, {**MOVE, **given}, KEY), FACETS) == expected


def test_a_model_s_move_stays_without_words() -> None:
    sample = {**MOVE, "signal": {"kind": "selection", "chosen": "x"}, "source": "vllm"}
    assert lesson(taught_by(PERSONA_FILE, sample, KEY), FACETS)


@pytest.mark.parametrize(
    ("delta", "wish"),
    [(0.0, "same"), (0.05, "more"), (-0.03, "same"), (-0.08, "less"), (-1.0, "much less"), (0.13, "much more")],
)
def test_nearest_wish(delta: float, wish: str) -> None:
    assert lessons.nearest_wish(delta) == wish


def ranking(count: int, used: set[int], **given: Any) -> Taught:
    found = [{"id": f"m{number}", "content": f"fact {number}", "rank": number} for number in range(count)]
    sample = {"query": "where", "candidates": found, "used_ids": [f"m{number}" for number in used]}
    return taught_by(RANKING_FILE, {**sample, **given}, KEY)


def test_a_rerank_row_has_labels_and_the_question_the_service_asks() -> None:
    rows = lesson(ranking(13, {0, 2, 12}), RERANK).rows
    assert [len(row["documents"]) for row, _ in rows] == [10, 3]
    for row, _ in rows:
        labelled = dict(zip(row["documents"], row["labels"], strict=True))
        assert {name for name, label in labelled.items() if label} <= {"fact 0", "fact 2", "fact 12"}
        assert row["prompt"] == relevance_instruction("where", row["documents"]).messages
        answer = said(row["completion"])
        jsonschema_rs.validate(answers.relevances_schema(len(row["documents"])), answer)
        assert answer["relevance"] == [9 if label else 1 for label in row["labels"]]
    assert sum(sum(row["labels"]) for row, _ in rows) == 3


def test_the_place_of_a_document_gives_nothing_away() -> None:
    """Used documents are always the first found here; over many queries they end up everywhere."""
    firsts = 0
    for number in range(200):
        ((row, _),) = lesson(ranking(4, {0, 1}, query=f"query {number}"), RERANK).rows
        firsts += row["labels"][0]
    assert 70 < firsts < 130


@pytest.mark.parametrize(
    ("count", "used", "given", "expected"),
    [
        (3, set(), {}, "nothing_used"),
        (3, {0, 1, 2}, {}, "no_contrast"),
        (3, {0}, {"success": False}, "no_success"),
        (3, {0}, {"candidates": [{"id": 1}]}, "malformed"),
    ],
)
def test_rankings_that_teach_nothing(count: int, used: set[int], given: dict[str, Any], expected: str) -> None:
    assert reason(ranking(count, used, **given), RERANK) == expected


@pytest.mark.parametrize(
    ("question", "request_"),
    [
        ("Do you want to build your REST API?", "Build my REST API."),
        ("Would you like me to review it for you?", "Review it for me."),
        ("Should I translate your letter?", "Translate my letter."),
        ("Do you need a plan ?", "I want a plan."),
        ("Which one?", "typed this"),
    ],
)
def test_the_request_behind_a_question(question: str, request_: str) -> None:
    assert lessons.request_of(question, "typed this") == request_


@pytest.mark.parametrize("question", ["a??", "Do you want to a?", "x\x00\x01y?"])
def test_a_request_is_never_too_short_to_be_read(question: str) -> None:
    shown = [{"id": "h1", "question": question}]
    taught = of_choice(hypotheses=shown, selected_id="h1", user_input="")
    ((row, _),) = lesson(taught, CHAT).rows
    assert answers.parse(row["completion"][0]["content"], answers.Proposals)


def test_the_facets_told_are_those_that_must_be_known() -> None:
    facets = {"a": 0.5, "b": 0.62, "c": 0.95, "d": 0.03, "e": 1.0}
    assert set(lessons.told_facets(facets)) == {"c", "d", "e"}


def test_secrets_that_are_left_are_hidden_and_counted() -> None:
    sample = choice(user_input="mail bob@example.com", user_id="ann@example.com")
    sample["context"]["memories"].append({"type": "HISTORY", "content": "I am eve@example.com"})
    cleaned, found = datasets.without_secrets(sample)
    assert found == {"EMAIL": 2}
    assert cleaned["user_input"] == "mail [EMAIL]"
    assert cleaned["context"]["memories"][2]["content"] == "I am [EMAIL]"
    assert cleaned["user_id"] == "ann@example.com"  # by which it is erased
    assert datasets.without_secrets(cleaned) == (cleaned, {})


def test_meta_names_nobody_and_has_no_null() -> None:
    meta = datasets.meta_of(choice(hypothesis_set_id="s1", model=None), KEY, ("acme", "ann"))
    assert meta["user"] == KEY.user("acme", "ann")
    assert meta["set_id"] == "s1"
    assert None not in meta.values()
    assert "ann" not in meta.values()
    assert "acme" not in meta.values()


def test_users_are_told_apart_by_tenant_and_key() -> None:
    names = {KEY.user("a", "bc"), KEY.user("ab", "c"), KEY.user("a", "b"), SplitKey(b"x" * 32).user("a", "bc")}
    assert len(names) == 4
    assert KEY.secret.hex() not in KEY.key_id
    assert "kkkk" not in repr(KEY)


def test_splits() -> None:
    assert datasets.split_of(True, 0, 10) == datasets.split_of(True, 11, 10) == "heldout"
    assert datasets.split_of(False, 10, 10) == "train"
    assert datasets.split_of(False, 11, 10) == "later"


def test_a_tally_counts_what_it_is_shown() -> None:
    tally = Tally()
    for tokens, user in ((10, "a"), (20, "a"), (30, "b"), (1000, "a")):
        tally.add({"meta": {"user": user * 32, "tokens": tokens, "label": "x, y" if user == "a" else "x"}})
    assert tally.summary() == {
        "rows": 4,
        "users": 2,
        "largest_user_share": 0.75,
        "labels": {"x": 4, "y": 3},
        "tokens": {"min": 10, "p50": 20, "p90": 30, "p99": 30, "max": 1000, "total": 1060},
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"heldout_share": 1.0},
        {"later_share": -0.1},
        {"max_tokens": 0},
        {"max_per_user": 0},
        {"near_duplicate": 0.2},
    ],
)
def test_options_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        DatasetOptions(**wrong)


@pytest.mark.parametrize("timestamp", [None, "yesterday", 5])
def test_a_sample_without_a_moment(timestamp: Any) -> None:
    assert datasets.moment_of({"timestamp": timestamp}) is None
    assert datasets.moment_of({}) is None


def test_moments_are_utc() -> None:
    assert datasets.moment_of({"timestamp": "1970-01-01T01:00:00+01:00"}) == 0
    assert datasets.moment_of({"timestamp": "1970-01-01T00:01:00"}) == 60
