"""What words say of facets: of an answer, and of options."""

import pytest

from app.domain.leanings import heuristic_deltas, leanings_of
from app.domain.persona import Facet, Signal

SURE = {
    "concise": Facet("concise", 0.9, 0.005, 20),
    "formal": Facet("formal", 0.1, 0.005, 20),
    "code_first": Facet("code_first"),
}


def deltas(comment: str) -> dict[str, float]:
    return heuristic_deltas(Signal("feedback", {}, comment=comment))


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("Too brief!", {"concise": -0.1, "step_by_step": 0.05}),
        ("That was way too long.", {"concise": 0.1}),
        ("not too long", {"concise": -0.05}),
        ("It wasn’t too formal", {"formal": 0.05}),
        ("I don't want more detail", {"concise": 0.05}),
        ("Not bad, more detail please", {"concise": -0.1}),
        ("show me the code first", {"code_first": 0.1}),
        ("too formal and too much code", {"formal": -0.1, "code_first": -0.1}),
        ("walk me through it step by step", {"step_by_step": 0.2}),
        ("maybe briefly mention codecs", {}),
        ("great", {}),
        ("", {}),
    ],
)
def test_comments_are_understood(comment: str, expected: dict[str, float]) -> None:
    assert deltas(comment) == pytest.approx(expected)


def test_the_form_of_what_was_chosen_and_rejected_counts_a_little() -> None:
    signal = Signal(
        "selection", {}, chosen_text="A short summary", rejected_texts=("A formal report", "My barcode shop")
    )
    assert heuristic_deltas(signal) == {"concise": 0.05, "formal": -0.02}


def test_a_verdict_strengthens_or_weakens_the_facets_that_shaped_the_answer() -> None:
    liked = heuristic_deltas(Signal("feedback", SURE, rating=1.0))
    assert liked == pytest.approx({"concise": 0.03, "formal": -0.03})
    assert heuristic_deltas(Signal("feedback", SURE, rating=-1.0)) == pytest.approx({"concise": -0.03, "formal": 0.03})
    failed = heuristic_deltas(Signal("feedback", SURE, is_success=False))
    assert failed == pytest.approx({"concise": -0.015, "formal": 0.015})


def test_words_count_more_than_a_verdict_that_comes_with_them() -> None:
    assert heuristic_deltas(Signal("feedback", SURE, rating=-1.0, comment="too brief")) == pytest.approx(
        {"concise": -0.1, "step_by_step": 0.05}
    )


def test_what_all_options_have_in_common_says_nothing() -> None:
    signal = Signal("selection", {}, chosen_text="Write code in short", rejected_texts=("Write code", "Test code"))
    assert heuristic_deltas(signal) == {"concise": 0.05}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Explain it with a short summary", {"concise": 1.0}),
        ("A detailed tutorial for beginners", {"concise": -1.0, "step_by_step": 1.0}),
        ("A short but detailed answer", {}),
        ("In a friendly tone, no code please", {"formal": -1.0, "code_first": -0.5}),
        ("A finished result to use as it is", {"step_by_step": -1.0}),
        ("With lots of emoji love", {"emoji_love": 1.0}),
        ("Deploy my barcode app", {}),
        ("", {}),
    ],
)
def test_options_lean_by_their_words(text: str, expected: dict[str, float]) -> None:
    assert leanings_of(text, ["concise", "emoji_love"]) == expected
