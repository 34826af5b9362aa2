"""Other assistants' exports: the user's words, when they were said, and nothing that breaks on strange files."""

import io
import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidInput
from app.domain.imports import MAX_CONTENT, Brought, Format, read_item
from app.domain.memory import MemoryType
from app.services.imports import BATCH, Report, read_batches

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MEM0 = Path(__file__).parents[1] / "data" / "imports" / "mem0.json"
"""What mem0 2.2.1 wrote: `json.dumps(memory.get_all(filters={"user_id": "ada"}))`."""


def node(
    name: str, parent: str | None, role: str, *parts: Any, time: Any = 1_760_000_000.5, **more: Any
) -> dict[str, Any]:
    """A node of ChatGPT's tree."""
    message = {
        "id": f"m-{name}",
        "author": {"role": role},
        "create_time": time,
        "content": {"content_type": "text", "parts": list(parts)},
        "metadata": {},
        **more,
    }
    return {"id": name, "message": message, "parent": parent, "children": []}


CHATGPT = {
    "title": "Trips",
    "current_node": "e",
    "mapping": {
        "root": {"id": "root", "message": None, "parent": None, "children": ["a"]},
        "a": node("a", "root", "system", "Be kind"),
        "b": node("b", "a", "user", "I want to see Lyon"),
        "c": node("c", "b", "assistant", "Lyon is fine"),
        "d-old": node("d-old", "c", "user", "And Nice"),
        "d": node("d", "c", "user", "And Lille", {"asset_pointer": "file://x"}, "by train", time=None),
        "e": node("e", "d", "user", "about me", metadata={"is_visually_hidden_from_conversation": True}),
    },
}

CLAUDE = {
    "uuid": "c1",
    "name": "Trips",
    "chat_messages": [
        {
            "uuid": "m1",
            "sender": "human",
            "text": "I want to see Lyon",
            "content": [{"type": "text", "text": "I want to see Lyon"}, {"type": "image"}],
            "created_at": "2026-01-31T12:00:00.123456Z",
        },
        {"uuid": "m2", "sender": "assistant", "text": "Fine", "created_at": "2026-01-31T12:01:00Z"},
        {"uuid": "m3", "sender": "human", "text": "By train", "created_at": "2026-01-31T12:02:00Z"},
    ],
}


def contents(brought: Any) -> list[str]:
    return [each.draft.content for each in brought]


def read(document: Any, form: Format) -> tuple[list[Brought], Report]:
    """A whole file."""
    report = Report()
    file = io.BytesIO(document if isinstance(document, bytes) else json.dumps(document).encode())
    return [each for batch in read_batches(file, form, "ada", NOW, report) for each in batch], report


def test_chatgpt_s_last_branch_gives_what_the_user_said() -> None:
    """In order, with times; replaced questions, hidden and other people's words are not the user's."""
    found = read_item(Format.CHATGPT, "ada", CHATGPT, NOW)
    assert contents(found.brought) == ["I want to see Lyon", "And Lille\nby train"]
    assert found.left_out == {"not the user's": 3}
    first, second = (each.draft for each in found.brought)
    assert first.valid_from == datetime.fromtimestamp(1_760_000_000.5, UTC)
    assert (second.valid_from, second.type, second.source) == (NOW, MemoryType.HISTORY, "chatgpt")


def test_a_tree_without_its_end_or_with_a_ring_is_read_all_the_same() -> None:
    """From the node written last; a ring is gone round once."""
    tree = {**CHATGPT["mapping"], "d": node("d", "c", "user", "And Lille", time=1_770_000_000)}
    assert contents(read_item(Format.CHATGPT, "ada", {"mapping": tree}, NOW).brought)[-1] == "And Lille"
    ring = {"x": node("x", "y", "user", "one"), "y": node("y", "x", "user", "two")}
    found = read_item(Format.CHATGPT, "ada", {"mapping": ring, "current_node": "x"}, NOW)
    assert contents(found.brought) == ["two", "one"]


def test_claude_s_messages_give_what_the_human_said() -> None:
    """Of the content's blocks the texts, else the text."""
    found = read_item(Format.CLAUDE, "ada", CLAUDE, NOW)
    assert contents(found.brought) == ["I want to see Lyon", "By train"]
    assert found.brought[0].draft.valid_from == datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


def test_what_mem0_writes_is_read() -> None:
    """Its package's own file: types by what they state, what an assistant said left out."""
    brought, report = read(MEM0.read_bytes(), Format.MEM0)
    assert {each.draft.content: each.draft.type for each in brought} == {
        "Prefers green tea to coffee": MemoryType.PROFILE,
        "I live in Lyon": MemoryType.PROFILE,
        "I want to run a marathon in spring": MemoryType.GOAL,
    }
    assert (report.items, report.left_out) == (4, {"not the user's": 1})
    assert contents(read(json.loads(MEM0.read_bytes())["results"], Format.MEM0)[0]) == contents(brought)


def test_ids_are_the_same_for_the_same_user_only() -> None:
    """So a second import finds them there, and two users have their own."""
    one, again = (read_item(Format.CLAUDE, "ada", CLAUDE, now) for now in (NOW, datetime(2027, 1, 1, tzinfo=UTC)))
    other = read_item(Format.CLAUDE, "bob", CLAUDE, NOW)
    ids = [{each.memory_id for each in found.brought} for found in (one, again, other)]
    assert ids[0] == ids[1]
    assert not ids[0] & ids[2]
    assert len(ids[0]) == 2


def test_malformed_items_are_named_and_the_others_taken() -> None:
    """By their place, without a word of theirs."""
    brought, report = read([CLAUDE, {"name": "secret"}, "secret", None, CLAUDE], Format.CLAUDE)
    assert len(brought) == 4
    assert report.malformed_items == 3
    assert report.malformed == [
        "item 2: chat_messages is missing",
        "item 3: the conversation is no object",
        "item 4: the conversation is missing",
    ]
    assert "secret" not in str(report.document())


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "no JSON"),
        (b"hello", "no JSON"),
        (b"[{]", "broken after item 0"),
        (b'[{"memory": "a"}, {"memory": "b"}, {"mem', "broken after item 2"),
        (b'{"else": []}', "there is no list at results or memories"),
        (b'["\xff"]', "broken after item 0"),
    ],
)
def test_another_file_is_refused_in_one_line(file: bytes, says: str) -> None:
    """Whatever it is."""
    with pytest.raises(InvalidInput, match=says):
        read(file, Format.MEM0)


def test_texts_are_fit_to_be_kept() -> None:
    """No NUL, no half character, no more than a memory may have, and not nothing."""
    texts = ["a\0b", "\ud800x", "x" * 20_000, " \n", ""]
    found = read_item(Format.CLAUDE, "ada", {"chat_messages": [{"sender": "human", "text": t} for t in texts]}, NOW)
    assert contents(found.brought) == ["ab", "x", "x" * MAX_CONTENT]
    assert found.left_out == {"without text": 2}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                "mapping current_node message author role content parts content_type create_time parent metadata id "
                "chat_messages sender text uuid created_at memory type results user human text".split()
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(item=JSON, form=st.sampled_from(Format))
def test_any_json_is_read_or_refused(item: Any, form: Format) -> None:
    """No other error, and what comes out can be kept."""
    try:
        found = read_item(form, "ada", item, NOW)
    except InvalidInput:
        return
    for each in found.brought:
        assert 0 < len(each.draft.content) <= MAX_CONTENT
        assert "\0" not in each.draft.content
        each.draft.content.encode()
        assert each.draft.valid_from is not None
        assert each.draft.valid_from <= NOW


@given(st.binary(max_size=200), st.sampled_from(Format))
def test_any_file_is_read_or_refused(file: bytes, form: Format) -> None:
    """Bytes of no kind do any harm."""
    with suppress(InvalidInput):
        read(file, form)


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """40 MB of conversations in less than 4 MB, in batches of a transaction's size."""
    file = tmp_path / "conversations.json"
    with file.open("w") as out:
        for number in range(2_000):
            said = [
                {"uuid": f"{number}-{n}", "sender": "human", "text": f"{number} {n} " + "x" * 900} for n in range(20)
            ]
            out.write(("," if number else "[") + json.dumps({"chat_messages": said}))
        out.write("]")
    report, count = Report(), 0
    tracemalloc.start()
    try:
        with file.open("rb") as opened:
            for batch in read_batches(opened, Format.CLAUDE, "ada", NOW, report):
                assert len(batch) <= BATCH
                count += len(batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (count, report.items) == (40_000, 2_000)
    assert peak < 4_000_000
