"""Counting and cutting by tokens."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.clients import tokenizer as module
from app.clients.tokenizer import SentencePieceTokenizer
from app.domain.errors import ModelUnavailable

TOKENIZER = SentencePieceTokenizer()

# Words, runs of spaces, other scripts, bytes, the vocabulary's own marks, and half pairs.
texts = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(
            ["the ", "Hypothesen", "  ", "\n\n", "東京", "🎉", "𠄌", "\u2581", "[INST]", "<0x41>", "aaa", "é"]
        )
    ).map("".join),
    st.text(st.characters(categories=["Cs", "Mn", "Zs", "Cc"]), max_size=30),
)


@given(texts, st.integers(0, 40))
def test_a_cut_text_is_a_prefix_with_few_enough_tokens(text: str, max_tokens: int) -> None:
    cut = TOKENIZER.truncate(text, max_tokens)

    assert text.startswith(cut)
    assert TOKENIZER.count(cut) <= max_tokens


@given(texts)
def test_a_text_that_fits_stays_whole(text: str) -> None:
    assert TOKENIZER.truncate(text, TOKENIZER.count(text)) == text


@given(texts, st.integers(1, 40))
def test_only_what_does_not_fit_is_cut(text: str, max_tokens: int) -> None:
    cut = TOKENIZER.truncate(text, max_tokens)

    # A character outside the vocabulary takes up to four tokens, and is left out when they do not all fit; so is
    # the mark for the beginning of a word before it.
    assert cut == text or TOKENIZER.count(cut) > max_tokens - 5


def test_counts_as_the_model_does() -> None:
    assert TOKENIZER.count("") == 0
    assert TOKENIZER.count("Hello, world!") == 4
    assert TOKENIZER.truncate("Hello, world!", 2) == "Hello,"
    assert TOKENIZER.truncate("Hello, world!", 0) == ""


def test_a_text_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its count is kept and the text is not; what is kept has an end."""
    monkeypatch.setattr(module, "MOST_COUNTS", 3)
    tokenizer, encoded = SentencePieceTokenizer(), list[str]()
    encode = tokenizer._processor.encode
    monkeypatch.setattr(
        tokenizer._processor, "encode", lambda text, **options: encoded.append(text) or encode(text, **options)
    )
    said = ["a secret of mine", "\ud800", "?", "", "東京"]

    for text in said:
        assert tokenizer.count(text) == tokenizer.count(text) == TOKENIZER.count(text)
    assert encoded == ["a secret of mine", "?", "", "東京"]
    assert len(tokenizer._counts) <= 3
    assert not any(b"secret" in digest for digest in tokenizer._counts)


def test_cutting_a_long_text_takes_no_longer_for_its_length() -> None:
    text = "lorem ipsum dolor sit amet " * 400_000

    started = time.perf_counter()
    cut = TOKENIZER.truncate(text, 6000)

    assert time.perf_counter() - started < 0.5
    assert TOKENIZER.count(cut) == 6000


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHA256", "0" * 64)

    with pytest.raises(ModelUnavailable, match="not the expected file"):
        SentencePieceTokenizer()
