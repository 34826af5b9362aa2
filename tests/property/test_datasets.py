"""Whatever samples hold: rows are read back by the service's own parser, nobody is named, splits never overlap, and
what was said before is recognised."""

from datetime import UTC, datetime
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.clients.slm import answers
from app.domain import datasets, lessons
from app.domain.datasets import CHAT, PREFERENCES, SplitKey
from app.domain.lessons import Lesson, taught_by
from app.domain.redaction import redact
from app.domain.training import FILES, HYPOTHESES_FILE, About, Sample, hypotheses_sample
from app.services.training.duplicates import Seen, SeenSamples

KEY = SplitKey(b"k" * 32)
ABOUT = About(datetime(2026, 1, 1, tzinfo=UTC), "ann")

texts = st.text(max_size=400)
questions = st.text(min_size=3, max_size=400) | st.sampled_from(["Do you want to build an API?", "Or\u2028 not\x00?"])
hypotheses = st.lists(
    st.fixed_dictionaries(
        {"question": questions, "request": st.none() | texts, "evidence": st.lists(st.just("m"), max_size=4)}
    ),
    min_size=1,
    max_size=5,
)
json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    user_input=texts,
    shown=hypotheses,
    chosen=st.integers(0, 4),
    memories=st.lists(texts.map(lambda text: {"type": "GOAL", "content": text}), max_size=14),
    version=st.sampled_from([1, 2]),
)
def test_every_row_is_read_by_the_service_s_own_parser(
    user_input: str, shown: list[dict[str, Any]], chosen: int, memories: list[dict[str, str]], version: int
) -> None:
    proposed = [{"id": f"h{number}", "confidence": 0.5, **one} for number, one in enumerate(shown)]
    selected = f"h{chosen % len(shown)}"
    sample = hypotheses_sample(ABOUT, user_input, {"concise": 0.9}, [], [], proposed, selected, memories=memories)
    taught = taught_by(HYPOTHESES_FILE, {**sample, "schema_version": version}, KEY)
    asked = lessons._line(sample["hypotheses"][chosen % len(shown)]["question"])  # what the model is to ask first
    chat, pairs = taught.lessons[CHAT], taught.lessons[PREFERENCES]
    assert isinstance(chat, Lesson) == (len(asked) >= 3)
    for lesson in (chat, pairs):
        for row, _ in lesson.rows if isinstance(lesson, Lesson) else ():
            for half in {"completion", "chosen", "rejected"} & set(row):
                read = answers.parse(row[half][0]["content"], answers.Proposals)
                assert [one.model_dump() for one in read.hypotheses] == [
                    {**one, "confidence": float(one["confidence"])}
                    for one in orjson.loads(row[half][0]["content"])["hypotheses"]
                ]
                known = min(12, len(memories))
                assert all(0 < number <= known for one in read.hypotheses for number in one.memories)
                if half != "rejected":
                    assert read.hypotheses[0].question == asked


@settings(deadline=None)
@given(sample=st.dictionaries(texts, json_values), fields=st.lists(st.sampled_from(["user_input", "signal"])))
def test_no_line_of_a_file_breaks_the_reading(sample: Sample, fields: list[str]) -> None:
    sample |= dict.fromkeys(fields, "x")
    datasets.moment_of(sample)
    datasets.without_secrets(sample)
    datasets.meta_of(sample, KEY, ("default", "ann"))
    for file in set(FILES) & set(datasets.SOURCES):
        assert set(taught_by(file, sample, KEY).lessons) == set(datasets.SOURCES[file])


@settings(deadline=None)
@given(values=st.dictionaries(texts, json_values | st.just("write to bob@example.com"), max_size=4))
def test_no_secret_is_left_in_a_text(values: Sample) -> None:
    cleaned, found = datasets.without_secrets({"signal": values, "user_id": "eve@example.com"})
    assert cleaned["user_id"] == "eve@example.com"
    for name, value in cleaned["signal"].items():
        if isinstance(value, str) and name not in datasets._WITHOUT_TEXT:
            assert not redact(value).counts
    assert (cleaned["signal"] == values) == (not found)


@settings(deadline=None)
@given(
    users=st.lists(st.tuples(texts, texts), min_size=1, max_size=30, unique=True),
    share=st.floats(0, 0.99),
    more=st.floats(0, 0.99),
)
def test_a_user_is_held_out_always_or_never(users: list[tuple[str, str]], share: float, more: float) -> None:
    names = [KEY.user(*one) for one in users]
    assert len(set(names)) == len(users)
    low, high = sorted((share, more))
    held_out = {name for name in names if KEY.is_heldout(name, low)}
    assert held_out <= {name for name in names if KEY.is_heldout(name, high)}
    assert held_out == {name for name in reversed(names) if KEY.is_heldout(name, low)}


def test_the_share_of_users_held_out_is_the_one_asked_for() -> None:
    held_out = sum(KEY.is_heldout(KEY.user("default", f"user-{number}"), 0.1) for number in range(10_000))
    assert held_out == pytest.approx(1000, abs=120)  # four standard deviations


@settings(deadline=None)
@given(moments=st.lists(st.integers(0, 10**9), max_size=60), share=st.floats(0, 0.99))
def test_at_most_the_share_is_later_and_training_is_never_empty(moments: list[int], share: float) -> None:
    moments.sort()
    cut = datasets.cut_at(moments, share)
    if cut is None:
        assert not moments
        return
    later = sum(datasets.split_of(False, moment, cut) == "later" for moment in moments)
    assert later <= share * len(moments)
    assert later < len(moments)
    if len(set(moments)) == len(moments):
        assert later == min(int(share * len(moments)), len(moments) - 1)


parts = st.lists(st.tuples(st.sampled_from(["input", "shown"]), texts), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(samples=st.lists(st.tuples(parts, parts), min_size=1, max_size=20))
def test_what_was_kept_is_always_found_again(samples: list[tuple[Any, Any]]) -> None:
    seen = SeenSamples(len(samples), 0.8)
    kept = [split for split, one in enumerate(samples) if seen.look(*one, split) is None]
    for split in kept:
        assert seen.look(*samples[split], 99) == Seen("duplicate", split)
    seen.close()


def words(random: Random, count: int) -> str:
    return " ".join(f"w{random.randrange(5000)}" for _ in range(count))


def test_one_changed_word_is_a_near_duplicate_and_half_the_words_are_not() -> None:
    """Of 2,000 samples of 60 words with 40 words known beside them."""
    random = Random(1)
    samples = [([("input", words(random, 60))], [("memory", words(random, 40))]) for _ in range(2000)]
    seen = SeenSamples(len(samples), 0.8)
    assert [seen.look(*one, 0) for one in samples] == [None] * 2000
    near = unlike = elsewhere = 0
    for ((part, text),), known in samples:
        split = text.split()
        split[random.randrange(60)] = "other"
        near += seen.look([(part, " ".join(split))], known, 1) == Seen("near_duplicate", 0)
        split[:30] = words(random, 30).split()
        unlike += seen.look([(part, " ".join(split))], known, 2) is not None
        elsewhere += seen.look([(part, text)], [("memory", words(random, 40))], 3) is not None
    assert near >= 1980
    assert unlike <= 5
    assert elsewhere == 0  # what is known tells them apart
    seen.close()


def test_a_word_in_another_part_is_another_word() -> None:
    seen = SeenSamples(10, 0.8)
    a, b = "do you want this long thing", "or would you rather have that other thing"
    assert seen.look([("chosen", a), ("rejected", b)], [], 0) is None
    assert seen.look([("chosen", b), ("rejected", a)], [], 0) is None
    assert seen.look([("chosen", b), ("rejected", a)], [], 0) == Seen("duplicate", 0)
    seen.close()


def test_a_table_that_is_too_small_forgets_and_does_not_fail() -> None:
    random = Random(2)
    seen = SeenSamples(1, 0.8)
    samples = [[("input", words(random, 20))] for _ in range(3000)]
    assert all(seen.look(one, [], 0) is None for one in samples)
    found = sum(seen.look(one, [], 0) is not None for one in samples)
    assert found > 1000
    seen.close()
