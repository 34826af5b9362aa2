"""How the benchmark of memory measures: what it reads, its baselines, its measures, and its sets made of other sets."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from app.domain.memory import Memory, MemoryType
from benchmarks.memory_quality.baselines import bm25, four_arms, read_stems, windowed
from benchmarks.memory_quality.data import (
    Conversation,
    Embedded,
    Question,
    Turn,
    data_sets,
    read_conversations,
    windows,
)
from benchmarks.memory_quality.figures import cost_figures, quality_figures, support_figure
from benchmarks.memory_quality.freshness import judged
from benchmarks.memory_quality.ingested import Places, Support, turn_of, utterance_of
from benchmarks.memory_quality.made_sets import (
    clariq_answers,
    clariq_bank,
    clariq_talks,
    in3_inquiries,
    in3_options,
    in3_talks,
    nearest_others,
    shortened,
    with_others,
)
from benchmarks.memory_quality.measures import Answer, Score, by_scores, interval, score
from benchmarks.memory_quality.ours import Cost
from benchmarks.memory_quality.support import Derived, is_told

AT = datetime(2025, 3, 3, tzinfo=UTC)
LOCOMO = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ada",
            "session_2_date_time": "9:05 am on 4 March, 2025",
            "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "Bye.", "blip_caption": "a boat"}],
            "session_1_date_time": "1:56 pm on 3 March, 2025",
            "session_1": [
                {"speaker": "Ada", "dia_id": "D1:1", "text": "I sold the boat."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "To whom?"},
            ],
        },
        "qa": [
            {"question": "What did Ada sell?", "evidence": ["D1:1; D2:1"], "category": 1},
            {"question": "Who asked?", "evidence": ["D1:02"], "category": 5},
            {"question": "Where was it?", "evidence": ["D7:1"], "category": 4},
            {"question": "Why?", "category": 4},
        ],
    }
]


def talk(sessions: Sequence[int], questions: Sequence[Question] = (), name: str = "talk") -> Conversation:
    turns = [Turn(session, at, "Ada", f"text {at}", AT) for at, session in enumerate(sessions)]
    return Conversation(name, turns, questions)


def scored(conversation: str, *values: float) -> list[Score]:
    return [Score(conversation, "open", {"m": value}) for value in values]


def test_conversations_are_read_in_the_order_of_their_sessions(tmp_path: Path) -> None:
    (tmp_path / "locomo").mkdir()
    (tmp_path / "locomo" / "locomo.json").write_text(json.dumps(LOCOMO))
    (tmp_path / "locomo" / "other.json").write_text("[]")
    (only,) = data_sets(tmp_path)["locomo"]

    assert only.name == "conv-1"
    assert [turn.text for turn in only.turns] == ["Ada: I sold the boat.", "Ben: To whom?", "Ben: Bye. [shares a boat]"]
    assert [turn.said for turn in only.turns] == ["I sold the boat.", "To whom?", "Bye. [shares a boat]"]
    assert only.turns[1].said_at == datetime(2025, 3, 3, 13, 56, 2, tzinfo=UTC)
    assert [(each.text, each.category, set(each.evidence)) for each in only.questions] == [
        ("What did Ada sell?", "multi_hop", {0, 2}),
        ("Who asked?", "adversarial", {1}),
    ]
    assert windows(only)[0] == "Ada: I sold the boat.\nBen: To whom?"
    assert windows(only)[2] == "Ben: Bye. [shares a boat]"


@pytest.mark.parametrize("document", ["{}", "[1]", '[{"conversation": {}}]'])
def test_a_file_of_another_layout_holds_no_conversations(tmp_path: Path, document: str) -> None:
    (tmp_path / "x.json").write_text(document)

    assert read_conversations(tmp_path / "x.json") == []


def test_an_answer_is_measured_by_where_the_evidence_is() -> None:
    asked = talk([1] * 10 + [2] * 10 + [3], [Question("?", "open", frozenset({4, 15, 20}))])
    turns = [0, 4, 1, 4, 2, 3, 5, 6, 7, 15]
    (one,) = score(asked, [Answer(turns, [1, 2])])

    assert one.values["turn/recall@5"] == pytest.approx(1 / 3)
    assert one.values["turn/recall@10"] == pytest.approx(2 / 3)
    assert one.values["turn/mrr"] == 0.5
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert one.values["turn/ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(11)) / ideal)
    assert one.values["session/recall@5"] == pytest.approx(2 / 3)


def test_nothing_found_is_nought_and_everything_first_is_one() -> None:
    asked = talk([1, 1, 2], [Question("?", "open", frozenset({0, 2}))] * 2)
    none, whole = score(asked, [Answer([], []), Answer([2, 0, 1], [2, 1])])

    assert set(none.values.values()) == {0.0}
    assert set(whole.values.values()) == {1.0}


def test_texts_that_stand_alone_have_no_sessions_to_find() -> None:
    texts = Conversation("t", talk([1, 2]).turns, [Question("?", "open", frozenset({0}))], is_talk=False)
    (one,) = score(texts, by_scores(texts, np.array([[0.1, 0.9]])))

    assert one.values["turn/mrr"] == 0.5
    assert not [name for name in one.values if name.startswith("session")]


def test_bm25_is_as_its_formula_says() -> None:
    turns = [Counter(boat=1, sell=1), Counter(boat=2), Counter(sky=1, blue=1, wide=1)]
    scores = bm25(turns, [Counter(boat=1, sell=1), Counter(moon=1)])

    mean = 7 / 3
    rarity = {"boat": np.log1p((3 - 2 + 0.5) / 2.5), "sell": np.log1p((3 - 1 + 0.5) / 1.5)}
    longer = 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / mean))
    assert scores[0, 0] == pytest.approx((rarity["boat"] + rarity["sell"]) * longer)
    assert scores[0, 1] == pytest.approx(rarity["boat"] * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 2 / mean)))
    assert scores[0, 2] == 0
    assert not scores[1].any()


def test_the_words_of_a_tsvector_are_counted() -> None:
    assert read_stems("'boat':1,4 'it''s':2A 'sold'") == Counter({"boat": 2, "it''s": 1, "sold": 1})


def test_four_arms_find_a_turn_by_the_words_beside_it_and_by_its_session() -> None:
    """Turn 1 has neither the words nor the vector of the question, but stands beside a turn that has; turn 3 is as
    empty, in another session."""
    asked = talk([1, 1, 2, 2], [Question("boat?", "open", frozenset({1}))])
    turns = [Counter(boat=1), Counter(ja=1), Counter(sky=1), Counter(no=1)]
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    near = np.array([[1, 0], [0.9, 0.1], [0, 1], [0, 1]], np.float32)
    fused = four_arms(asked, Embedded(vectors, near, np.array([[1, 0]], np.float32)), turns, [Counter(boat=1)])

    assert fused.shape == (1, 4)
    assert fused[0].argmax() == 0
    assert fused[0, 1] > max(fused[0, 2], fused[0, 3])
    assert windowed(asked, turns)[1] == Counter(boat=1, ja=1)
    assert windowed(asked, turns)[2] == Counter(sky=1, no=1)


def test_an_interval_is_over_conversations_and_over_questions_where_there_is_one_alone() -> None:
    ours = scored("a", 1, 1) + scored("b", 0, 0)
    theirs = scored("a", 0, 0) + scored("b", 0, 0)

    assert interval(ours, theirs, "m") == (0.5, 0.0, 1.0)
    assert interval(ours, ours, "m") == (0.0, 0.0, 0.0)
    difference, low, high = interval(scored("a", *[1] * 50, *[0] * 50), scored("a", *[0] * 100), "m")
    assert difference == 0.5
    assert low == pytest.approx(0.4, abs=0.03)
    assert high == pytest.approx(0.6, abs=0.03)


def test_every_measure_is_told_of_everybody_and_by_type() -> None:
    asked = talk([1, 1, 2], [Question("?", "open", frozenset({0})), Question("?", "temporal", frozenset({2}))])
    scores = {who: score(asked, [Answer([0], [1]), Answer([2], [2])]) for who in ("ours", "cosine", "rrf")}
    figures = {figure.path: figure for figure in quality_figures("talks", scores)}

    assert figures["ours/talks/temporal/turn/recall@20"].value == 1
    assert figures["cosine/talks/open/turn/mrr"].note == "1 questions"
    assert figures["ours/talks/turn/recall@10/ratio_to_rrf"].value == 1
    assert "by question" in figures["ours/talks/turn/recall@10/more_than_cosine"].note
    whole = {figure.path for figure in quality_figures("talks", scores, is_by_type=False)}
    assert not [path for path in whole if "temporal" in path]


def test_costs_and_support_are_told_by_turn_and_as_a_share() -> None:
    costs = {"ours": Cost(4, 0.02, 100, 8000) + Cost(6, 0.03, 100, 2000)}
    figures = {figure.path: figure.value for figure in cost_figures("talks", costs)}
    untold = Derived("I live in Oslo.", None, "1", 1)

    assert figures == {
        "ours/talks/turn_cost/ms": pytest.approx(5),
        "ours/talks/turn_cost/tokens": 20,
        "ours/talks/turn_cost/bytes": 1000,
    }
    assert support_figure("x", Support(3) + Support(1, (untold,))).value == 0.25
    assert support_figure("x", Support()).value == 0


@pytest.mark.parametrize(
    ("found", "is_right", "is_first", "is_above"),
    [
        (["I moved to Lyon", "I live in Paris"], True, False, False),
        (["I live in Paris", "I moved to Lyon"], False, True, True),
        (["Nice weather", "I live in Paris", "Lyon it is"], False, False, True),
        (["Not Paris, I meant Lyon"], True, False, False),
        (["Nice weather"], False, False, False),
        (["I live in Paris"], False, True, True),
    ],
)
def test_an_outdated_fact_is_counted_where_it_comes_first(
    found: Sequence[str], is_right: bool, is_first: bool, is_above: bool
) -> None:
    outcome = judged(found, "Lyon", {"Paris", "Lyon"})

    assert (outcome.is_right, outcome.is_stale_first, outcome.is_stale_above) == (is_right, is_first, is_above)


@pytest.mark.parametrize(
    ("content", "quote", "turn", "is_it"),
    [
        ("I moved to Lyon.", "I moved to Lyon", "So: I moved to Lyon, finally.", True),
        ("I moved to Lyon (2025-02).", "I moved to Lyon last month", "I moved to Lyon last month!", True),
        ("I moved to Lyon (2025-02).", "I moved to Lyon", "I moved to Lyon.", False),
        ("I moved to Rome.", "I moved to Lyon", "I moved to Lyon.", False),
        ("I moved to Lyon.", "I moved to Lyon", "We spoke of boats.", False),
        ("I own 3 boats.", "I own boats", "I own boats.", False),
        ("I eat meat.", "I do not eat meat", "Well, I do not eat meat.", False),
        ("I collect stamps and old Norwegian maps.", "I collect stamps", "I collect stamps.", False),
        ("My bike is a Gazelle.", "It is a Gazelle", "It is a Gazelle.", True),
        ("I live in Lyon.", None, "Sorry, I meant Lyon.", True),
        ("I live in Ghent.", None, "Sorry, I meant Lyon.", False),
    ],
)
def test_a_memory_is_told_where_its_quote_and_its_values_were_said(
    content: str, quote: str | None, turn: str, is_it: bool
) -> None:
    assert is_told(Derived(content, quote, "1", 2), turn, ["I live in Paris, with my bike."]) is is_it


def test_memories_are_of_the_turns_that_they_were_made_of() -> None:
    turns = [Turn(7, 3, "Ada", "Ada: Ha!", AT, "Ha!"), Turn(7, 4, "Ben", "Ben: Ha!", AT, "Ha!")]
    turns += [Turn(7, 5, "Ada", "Ada: Ha!", AT, "Ha!"), Turn(8, 1, "Ada", "Ada: I am tall.", AT, "I am tall.")]
    places = Places.of(Conversation("c", turns, []))

    def memory(content: str, source: str, *said: Any) -> Memory:
        made = Memory(uuid4(), "u", MemoryType.HISTORY, content, 1.0, (), source, AT, AT, AT)
        return replace(made, **dict(zip(("session", "turn", "speaker"), said, strict=False)))

    assert places.of_memory(memory("Ha!", "conversation:user", "7", 1, "Ada")) == [0, 2]
    assert places.of_memory(memory("Ha!", "conversation:assistant", "7", 2, "Ben")) == [1]
    assert places.of_memory(memory("I am tall.", "turn:8:1")) == [3]
    assert turn_of("turn:day:3:2") == ("day:3", 2)
    spoken = utterance_of(turns[0], is_user=True)
    assert (spoken.role, spoken.content, spoken.speaker) == ("user", "Ha!", "Ada")


ROWS = [
    {"topic_id": "1", "initial_request": "boats", "facet_desc": "sell one", "question_id": "Q2", "answer": "a red one"},
    {"topic_id": "1", "initial_request": "boats", "facet_desc": "buy one", "question_id": "Q3", "answer": "no, to buy"},
    {"topic_id": "2", "initial_request": "birds", "facet_desc": "songs", "question_id": "Q3", "answer": "a red one"},
    {"topic_id": "2", "initial_request": "birds", "facet_desc": "songs", "question_id": "Q4", "answer": ""},
]
BANK = {"Q00001": "", "Q2": "to sell?", "Q3": "to buy?", "Q4": "to hear?"}


def asked(conversation: Conversation) -> dict[str, set[str]]:
    return {
        question.text: {conversation.turns[at].text for at in question.evidence} for question in conversation.questions
    }


def test_sets_are_made_of_clariq() -> None:
    bank, answers, (talked,) = clariq_bank(ROWS, BANK), clariq_answers(ROWS), clariq_talks(ROWS, BANK)

    assert asked(bank) == {"boats": {"to sell?", "to buy?"}, "birds": {"to buy?", "to hear?"}}
    assert asked(answers) == {"sell one": {"a red one"}, "buy one": {"no, to buy"}, "songs": {"a red one"}}
    assert len({turn.session for turn in bank.turns}) == len(bank.turns) == 3
    assert [bank.is_talk, answers.is_talk, talked.is_talk] == [False, False, True]
    assert asked(talked)["buy one"] == {"no, to buy"}
    assert [turn.speaker for turn in talked.turns] == ["assistant", "user"] * 3
    assert clariq_talks(ROWS, BANK) == [talked]


def test_sets_are_made_of_in3() -> None:
    """What has to be asked by the task, what can be answered by what is asked, and both as a conversation."""
    where = {"description": "place", "inquiry": "Where?", "options": ["here"]}
    when = {"description": "day", "inquiry": "When?", "options": ["now"]}
    tasks = [
        {"task": "Plan a party.", "missing_details": [where, when]},
        {"task": "Book a room.", "missing_details": [when, {"description": "name", "inquiry": "Who?", "options": []}]},
    ]
    inquiries, options, (talked,) = in3_inquiries(tasks), in3_options(tasks), in3_talks(tasks)

    assert asked(inquiries) == {"Plan a party.": {"Where?", "When?"}, "Book a room.": {"When?", "Who?"}}
    assert asked(options) == {"Where?": {"here"}, "When?": {"now"}}
    assert asked(talked) == {"place": {"here"}, "day": {"now"}}
    assert [inquiries.is_talk, options.is_talk, talked.is_talk] == [False, False, True]
    assert [turn.number for turn in talked.turns if turn.session == 1] == list(
        range(1, 1 + sum(turn.session == 1 for turn in talked.turns))
    )
    assert all(talked.turns[at - 1].speaker == "assistant" for each in talked.questions for at in each.evidence)
    assert in3_talks(tasks) == [talked]


def test_what_is_shortened_can_still_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.memory_quality.made_sets.QUICK_TURNS", 2)
    bank = clariq_bank(ROWS, BANK)
    short = shortened(bank)

    assert len(short.turns) == 2
    assert short.questions
    assert all(asked(short)[question.text] == asked(bank)[question.text] for question in short.questions)
    assert len(shortened(clariq_talks(ROWS, BANK)[0]).turns) == 2


def test_a_word_is_replaced_by_the_nearest_that_is_another_word() -> None:
    vocabulary = ["boat", "boating", "boats", "ship", "sky"]
    vectors = np.array([[1, 0], [0.99, 0.1], [0.98, 0.1], [0.9, 0.4], [0, 1]], np.float32)
    stems = [Counter([stem]) for stem in ("boat", "boat", "boat", "ship", "sky")]
    others = nearest_others(vocabulary, vectors, stems, {"boat", "sky", "unheard"})

    assert others == {"boat": "ship"}
    assert (
        with_others("Did Ada's Boat sink, the boat?", others, set(), 1.0, Random(1)) == "Did Ada's ship sink, the ship?"
    )
    assert with_others("the boat", others, {"boat"}, 1.0, Random(1)) == "the boat"
    assert with_others("the boat", others, set(), 0.0, Random(1)) == "the boat"
