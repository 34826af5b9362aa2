"""Texts become token ids, with the exact number that the model reads: `Splitter`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from serving.errors import ModelRefused

Text = str | tuple[str, str]
"""A text, or for a cross-encoder a query and a document."""

TokenIds = NDArray[np.int32]
"""Of one text, special tokens included: shape (tokens, 2), the id and the segment of each."""

_HEAD_CHARACTERS = 16
"""Per token the model reads; of a longer text first only so much is split."""

_MARGIN = 64
"""Tokens a head must have beyond those read, so that where it was cut cannot show in them."""

_Marks = TokenIds
"""Special tokens, or tokens of one text, with their segments."""


@dataclass(frozen=True, slots=True)
class Split:
    """What the model reads of one text."""

    ids: TokenIds
    is_truncated: bool

    def __len__(self) -> int:
        return len(self.ids)


class Splitter:
    """A folder's tokenizer, cutting at `max_tokens` as transformers does, and never padding. May be used by several
    threads at a time."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, *, is_lower_cased: bool = False) -> None:
        """Raises ModelRefused when nothing of a text would be left between the special tokens."""
        padding = cast("dict[str, Any]", tokenizer.padding or {})
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._is_lower_cased = is_lower_cased
        self.max_tokens = max_tokens
        self.pad_id = int(
            padding.get("pad_id") or tokenizer.token_to_id("[PAD]") or tokenizer.token_to_id("<pad>") or 0
        )
        self._single = _single_layout(tokenizer)
        self._pair = _pair_layout(tokenizer)
        if max_tokens <= max(map(_size, (self._single, self._pair))):
            raise ModelRefused(f"A model that reads {max_tokens} tokens has no room for a text.")

    @classmethod
    def load(cls, file: Path, max_tokens: int, *, is_lower_cased: bool = False) -> "Splitter":
        """The splitter of a `tokenizer.json`. Raises ModelRefused."""
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - the library raises nothing more exact
            raise ModelRefused(f"{file} cannot be read: {error}") from None
        return cls(tokenizer, max_tokens, is_lower_cased=is_lower_cased)

    def split(self, text: Text) -> Split:
        """The ids of a text or a pair; what does not fit is left out at the end, of a pair from its longer part."""
        if isinstance(text, str):
            room = self.max_tokens - _size(self._single)
            ids = self._ids_of(text, room)
            (before, after), segment = self._single
            return _put_together(before, _in_segment(ids[:room], segment), after, is_truncated=len(ids) > room)
        room = self.max_tokens - _size(self._pair)
        query, document = (self._ids_of(part, room) for part in text)
        first, second = kept_lengths(len(query), len(document), room)
        (before, between, after), (own, other) = self._pair
        parts = (before, _in_segment(query[:first], own), between, _in_segment(document[:second], other), after)
        return _put_together(*parts, is_truncated=first + second < len(query) + len(document))

    def _ids_of(self, text: str, room: int) -> list[int]:
        """The ids of a text without special tokens; of a long one at least those of its head, more than `room`."""
        if self._is_lower_cased:
            text = text.lower()
        size = _HEAD_CHARACTERS * (room + _MARGIN)
        while size < len(text):
            cut = text.rfind(" ", 0, size)
            if cut > 0 and len(ids := self._encode(text[:cut])) >= room + _MARGIN:
                return ids
            size *= 4
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        # The batch call is the one that lets other threads run meanwhile.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids


def kept_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens to keep of two texts so that both have `room`: the longer one gives way, until they are equal
    (`longest_first` in transformers)."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)


def _single_layout(tokenizer: Tokenizer) -> tuple[tuple[_Marks, _Marks], int]:
    """The special tokens around a text, and its segment: read off one that the tokenizer put together itself."""
    found = tokenizer.encode("a")
    own = [place for place, text in enumerate(found.sequence_ids) if text == 0]
    if not own:
        raise ModelRefused("The tokenizer makes nothing of the letter a.")
    marks = np.array([found.ids, found.type_ids], np.int32).T
    return (marks[: own[0]], marks[own[-1] + 1 :]), found.type_ids[own[0]]


def _pair_layout(tokenizer: Tokenizer) -> tuple[tuple[_Marks, _Marks, _Marks], tuple[int, int]]:
    found = tokenizer.encode("a", "b")
    first = [place for place, text in enumerate(found.sequence_ids) if text == 0]
    second = [place for place, text in enumerate(found.sequence_ids) if text == 1]
    if not first or not second or first[0] > second[0]:
        raise ModelRefused("The tokenizer does not put two texts together.")
    marks = np.array([found.ids, found.type_ids], np.int32).T
    around = (marks[: first[0]], marks[first[-1] + 1 : second[0]], marks[second[-1] + 1 :])
    return around, (found.type_ids[first[0]], found.type_ids[second[0]])


def _size(layout: tuple[Sequence[_Marks], object]) -> int:
    return sum(map(len, layout[0]))


def _in_segment(ids: Sequence[int], segment: int) -> _Marks:
    marks = np.full((len(ids), 2), segment, np.int32)
    marks[:, 0] = ids
    return marks


def _put_together(*parts: _Marks, is_truncated: bool) -> Split:
    return Split(np.concatenate(parts), is_truncated)
