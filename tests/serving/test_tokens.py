"""Texts are split and cut as the tokenizer's own library does it."""

from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from serving.errors import ModelRefused
from serving.tokens import Splitter, kept_lengths
from tests.weights import MINILM

FILE = MINILM / "tokenizer.json"


@lru_cache
def splitter(max_tokens: int) -> Splitter:
    return Splitter.load(FILE, max_tokens)


@lru_cache
def reference(max_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(FILE))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


texts = st.text(alphabet="abc de, é東\t.", max_size=200)


@settings(max_examples=60, deadline=None)
@given(text=texts, max_tokens=st.integers(4, 40))
def test_a_text_has_the_tokens_of_the_library(text: str, max_tokens: int) -> None:
    found, expected = splitter(max_tokens).split(text), reference(max_tokens).encode(text)

    assert found.ids.T.tolist() == [expected.ids, expected.type_ids]
    assert found.is_truncated == bool(expected.overflowing)


@settings(max_examples=60, deadline=None)
@given(query=texts, document=texts, max_tokens=st.integers(8, 40))
def test_a_pair_has_the_tokens_of_the_library(query: str, document: str, max_tokens: int) -> None:
    found, expected = splitter(max_tokens).split((query, document)), reference(max_tokens).encode(query, document)

    assert found.ids.T.tolist() == [expected.ids, expected.type_ids]


def test_of_a_very_long_text_the_head_alone_gives_the_same_tokens() -> None:
    text = "the quick brown fox jumps over the lazy dog, " * 20_000

    found = splitter(256).split(text)

    assert found.ids[:, 0].tolist() == reference(256).encode(text).ids
    assert found.is_truncated


def test_a_long_text_without_a_space_is_split_whole() -> None:
    text = "x" * 20_000

    assert splitter(256).split(text).ids[:, 0].tolist() == reference(256).encode(text).ids


def test_spaces_at_the_end_are_no_truncation() -> None:
    assert not splitter(16).split("a word" + " " * 50_000).is_truncated


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 60))
def test_both_texts_of_a_pair_have_room(first: int, second: int, room: int) -> None:
    kept = kept_lengths(first, second, room)

    assert sum(kept) == min(first + second, room)
    assert kept[0] <= first
    assert kept[1] <= second


def test_a_model_without_room_for_a_text_is_refused() -> None:
    with pytest.raises(ModelRefused, match="no room"):
        splitter(3)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(ModelRefused, match=r"tokenizer\.json cannot be read"):
        Splitter.load(tmp_path / "tokenizer.json", 16)


def test_a_model_of_lower_case_gets_lower_case() -> None:
    lowered = Splitter.load(FILE, 16, is_lower_cased=True).split("ABC").ids

    assert lowered.tolist() == splitter(16).split("abc").ids.tolist()
