"""Chat bodies under anything: what is added is all that changes, and keeps to its budget; replies are read alike."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import Addition, Chat, read_chat, with_additions
from app.domain.chat_context import RECALLED, STANDING, Known, Meant, make_context
from app.domain.clarifying import asked_before, is_same, put, read_reply
from app.domain.memory import Memory, MemoryType
from app.domain.ranking import Ranked

NOW = datetime(2026, 1, 31, tzinfo=UTC)

texts = st.text(st.characters(codec="utf-8"), max_size=80)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": texts})}),
    max_size=3,
)
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]),
        "content": st.none() | texts | parts,
    },
    optional={"tool_calls": values, "name": texts, "tool_call_id": texts},
)
documents = st.fixed_dictionaries(
    {"model": texts, "messages": st.lists(messages, min_size=1, max_size=5)},
    optional={"stream": st.booleans(), "x": values},
)
bodies = st.builds(
    lambda document, indent, is_ascii: json.dumps(document, indent=indent, ensure_ascii=is_ascii).encode(),
    documents,
    st.none() | st.integers(0, 3),
    st.booleans(),
)
memories = st.builds(
    lambda number, kind, content, days: Memory(
        UUID(int=number), "u", kind, content, 0.8, (), "api", NOW, NOW, NOW - timedelta(days=days)
    ),
    st.integers(1, 2**32),
    st.sampled_from(MemoryType),
    texts,
    st.integers(0, 400),
)
ranked = st.builds(lambda memory, close: Ranked(memory, close, close, 1.0, 0.8), memories, st.floats(0, 1))


def count(text: str) -> int:
    """Tokens, near enough: a fourth of the bytes, rounded up, so that pieces put together may cost more or less."""
    return -(-len(text.encode()) // 4)


def read(body: bytes) -> Chat:
    """A body that is a chat."""
    chat = read_chat(body)
    assert chat is not None
    return chat


@given(st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), values))
def test_whatever_is_no_chat_is_left_alone(body: bytes) -> None:
    """Any bytes and any JSON can be looked at; what has no messages is none."""
    chat = read_chat(body)
    assert chat is None or chat.body == body


@given(bodies)
def test_nothing_added_changes_nothing(body: bytes) -> None:
    """Not a byte."""
    assert with_additions(read(body), []) == body


@given(bodies, st.data())
def test_what_is_added_is_all_that_changes(body: bytes, data: st.DataObject) -> None:
    """The document says the same but for the text, which stands where it was to stand; and the bytes that were there
    are all there, in order."""
    chat = read(body)
    place = data.draw(st.integers(0, len(chat.messages) - 1))
    text, is_before = data.draw(texts), data.draw(st.booleans())

    changed = with_additions(chat, [Addition(place, text, is_before=is_before)])

    before, after = json.loads(body), json.loads(changed)
    content = before["messages"][place]["content"]
    if isinstance(content, str):
        content = f"{text}\n\n{content}" if is_before else f"{content}\n\n{text}"
    elif isinstance(content, list):
        part = {"type": "text", "text": text}
        content = [part, *content] if is_before else [*content, part]
    before["messages"][place]["content"] = content
    assert after == before
    assert is_subsequence(body, changed)


def is_subsequence(short: bytes, long: bytes) -> bool:
    """Whether `short` is `long` with one stretch left out."""
    start = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    tail = len(short) - start
    return long.endswith(short[start:]) if tail else long.startswith(short)


@given(
    bodies,
    st.lists(memories, max_size=6),
    st.lists(ranked, max_size=10),
    st.lists(texts, max_size=2),
    st.integers(0, 600),
)
def test_the_budget_holds(
    body: bytes, held: list[Memory], found: list[Ranked], persona: list[str], budget: int
) -> None:
    """What is added never has more tokens than it may, and the added messages are the user's own."""
    chat = read(body)
    standing = [memory for memory in held if memory.type in STANDING]
    found = sorted(found, key=lambda item: -item.score)

    context = make_context(chat, Known(persona, standing, found), budget, count)

    assert sum(count(each.text) for each in context.additions) == context.tokens <= budget
    assert {chat.messages[each.message].role for each in context.additions} <= {"user"}
    assert len(context.memory_ids) <= len(standing) + RECALLED
    assert context == make_context(chat, Known(persona, standing, found), budget, count)


meanings = st.builds(Meant, st.none() | texts | texts.map(lambda text: f"build, minding “{text}”"))


@given(
    bodies,
    st.lists(memories, max_size=4),
    st.lists(texts.filter(str.strip), max_size=2),
    texts,
    st.tuples(st.lists(ranked, max_size=6), st.lists(ranked, max_size=6)),
    st.tuples(meanings, meanings),
    st.integers(0, 600),
)
def test_what_stands_does_not_depend_on_what_is_asked(
    body: bytes,
    held: list[Memory],
    persona: list[str],
    asked: str,
    found: tuple[list[Ranked], list[Ranked]],
    meant: tuple[Meant, Meant],
    budget: int,
) -> None:
    """The part in front is the same whatever the next turn says, recalls and means, unless it says a memory itself; so
    the first message of a conversation is the same in the second turn as in the third."""
    standing = [memory for memory in held if memory.type in STANDING]
    chat = read(body)
    if chat.turn is None or chat.messages[chat.turn].content is None:
        return
    document = json.loads(body)
    document["messages"] += [{"role": "assistant", "content": "Fine."}, {"role": "user", "content": f"? {asked}"}]
    later = read(json.dumps(document).encode())
    if any(memory.content.strip()[:3].casefold() in asked.casefold() for memory in standing):
        return

    contexts = [
        make_context(each, Known(persona, standing, *called), budget, count)
        for each, called in zip((chat, later), zip(found, meant, strict=True), strict=True)
    ]

    front = front_of(chat, Known(persona, standing, ()), budget)
    assert [each for each in contexts[1].additions if each.message != later.turn] == front
    assert list(contexts[0].additions[: len(front)]) == front
    assert {each.message for each in contexts[0].additions[len(front) :]} <= {chat.turn}


def front_of(chat: Chat, standing: Known, budget: int) -> list[Addition]:
    """What is added to a chat by what stands alone."""
    return list(make_context(chat, standing, budget, count).additions)


@given(
    st.lists(texts.filter(lambda text: any(c.isalnum() for c in text)), min_size=1, max_size=5, unique=True), st.data()
)
def test_an_option_s_number_and_its_words_mean_it(options: list[str], data: st.DataObject) -> None:
    """And the question is known by its text."""
    place = data.draw(st.integers(0, len(options) - 1))
    assert is_same(f"  {put(options)}\n", options)
    for said in (str(place + 1), f"{place + 1}.", f"option {place + 1}", f"the {place + 1} please"):
        assert read_reply(said, options).option in {place, *same(options, said)}


def same(options: list[str], said: str) -> set[int]:
    """Options that are worded as what is said."""
    return {place for place, option in enumerate(options) if option.strip().casefold().rstrip("?. ") in said.casefold()}


@given(bodies)
def test_a_question_is_only_where_one_was_put(body: bytes) -> None:
    """No other message of an assistant's is taken for one."""
    assert asked_before(read(body)) is None
