"""Statements in the first person become memories; questions, requests and small talk do not."""

import pytest

from app.domain.extraction import statements_in
from app.domain.memory import MemoryType


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I want to run a marathon", MemoryType.GOAL),
        ("I'd like to learn Spanish", MemoryType.GOAL),
        ("We are planning to move to Berlin", MemoryType.GOAL),
        ("I prefer window seats", MemoryType.PREFERENCE),
        ("I use Node.js 20 for my APIs", MemoryType.PREFERENCE),
        ("I don't use AWS", MemoryType.PREFERENCE),
        ("I never eat meat", MemoryType.PREFERENCE),
        ("I'm a nurse from Leeds", MemoryType.PROFILE),
        ("I live in São Paulo", MemoryType.PROFILE),
        ("My budget is 500 EUR", MemoryType.CONSTRAINT),
        ("It must run offline", MemoryType.CONSTRAINT),
        ("Keep answers short please", MemoryType.STYLE),
        ("I built a weather app", MemoryType.ARTIFACT),
    ],
)
def test_a_statement_is_kept_whole_with_its_type(text: str, kind: MemoryType) -> None:
    for wrapped in (text, f"{text}.", f"  Hello there!  {text}. Thanks\n"):
        [draft] = statements_in(wrapped, "chat")
        assert (draft.type, draft.content, draft.source) == (kind, text, "chat")
        assert draft.quote == text, "the words that tell it"
        assert 0 < draft.confidence < 1


@pytest.mark.parametrize(
    "text",
    ["Do I like tea?", "What should I want to do?", "ok", "deploy the app to the cloud", "He said so", "", "🙂" * 50],
)
def test_what_states_nothing_gives_nothing(text: str) -> None:
    assert statements_in(text, "chat") == []


def test_sentences_come_in_order_and_very_long_ones_are_left() -> None:
    drafts = statements_in("I like tea. I live in Rome; I want to " + "go and " * 60 + "on. I hate rain", "chat")
    assert [draft.content for draft in drafts] == ["I like tea", "I live in Rome", "I hate rain"]
