"""What of a chat is remembered."""

import json
from typing import Any

import pytest

from app.domain.chat import read_chat
from app.domain.hypotheses import Turn
from app.domain.memory import MemoryType
from app.domain.prompt import SAFETY
from app.domain.remembering import MAX_SAID, drafts_of, new_turns


def new(*messages: dict[str, Any]) -> list[str]:
    """What the user says anew in a request."""
    chat = read_chat(json.dumps({"messages": messages}).encode())
    assert chat is not None
    return [turn.content for turn in new_turns(chat)]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


FINE = {"role": "assistant", "content": "Fine."}


def test_only_what_came_after_the_last_answer_is_new() -> None:
    assert new(user("one"), FINE, user("two"), user("three")) == ["two", "three"]
    assert new(user("one"), FINE) == []
    assert new({"role": "system", "content": "I am a system"}, user("one")) == ["one"]


def test_a_tool_s_result_brings_nothing_new() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": []}
    assert new(user("one"), call, {"role": "tool", "content": "I am a tool", "tool_call_id": "c"}) == []


def test_the_text_of_parts_is_said() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    assert new(user([{"type": "text", "text": "I like this"}, image])) == ["I like this"]


@pytest.mark.parametrize(
    "text",
    [
        f"{SAFETY} <memory type=PROFILE>I live in Oslo</memory>",
        "### Task:\nGenerate a title for what I said: I live in Oslo",
        "I live in Oslo. " * (MAX_SAID // 10),
    ],
    ids=["our own text", "a frontend's task", "a long text"],
)
def test_what_nobody_typed_is_not_said(text: str) -> None:
    assert new(user(text)) == []


@pytest.mark.parametrize(
    ("said", "drafts"),
    [
        ("I live in Oslo.", [(MemoryType.PROFILE, "I live in Oslo")]),
        ("My dog is called Biscuit. What does he eat?", [(MemoryType.HISTORY, "My dog is called Biscuit.")]),
        (
            "I never eat fish. We moved here in May.",
            [(MemoryType.PREFERENCE, "I never eat fish"), (MemoryType.HISTORY, "We moved here in May.")],
        ),
        ("Write a poem about the sea", []),
        ("Tell me about my dog", []),
        ("what do I like", []),
        ("Where is my dog?", []),
        ("ok", []),
        ("The sky is blue.", []),
    ],
)
def test_statements_in_the_first_person_become_memories(said: str, drafts: list[tuple[MemoryType, str]]) -> None:
    assert [(draft.type, draft.content) for draft in drafts_of([Turn("user", said)])] == drafts
    assert {draft.source for draft in drafts_of([Turn("user", said)])} <= {"chat"}
    assert all(draft.quote and draft.quote in " ".join(said.split()) for draft in drafts_of([Turn("user", said)]))
