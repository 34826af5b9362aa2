"""Counting tokens as a language model would: `SentencePieceTokenizer`, on a tokenizer file that ships in a package.

The file is the one of Mistral's v3 models (32,768 pieces, byte fallback; Apache-2.0) out of `mistral-common`,
whose code is never imported. Other models split text a little differently; for budgets that is near enough.
Source: https://github.com/mistralai/mistral-common.
"""

from hashlib import blake2b, sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from app.domain.errors import ModelUnavailable

PACKAGE = "mistral_common"
FILE = "mistral_instruct_tokenizer_240323.model.v3"
SHA256 = "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33"

_LONGEST_PIECE = 18
"""Characters in the longest piece of the vocabulary."""

MOST_COUNTS = 16_384
"""Counts that are kept: 3 MB."""


class SentencePieceTokenizer:
    """The Tokenizer port on SentencePiece, without begin and end marks. 4 to 12 µs for a sentence, 2 MB/s and more.

    The same lines are counted again and again, for each chat of a user: a count that is known takes half a microsecond.
    It is kept by the text's digest, so that no text of a user's stays in memory.
    """

    def __init__(self) -> None:
        """Load the vocabulary (20 ms). Raises ModelUnavailable when its file is missing or not the expected one."""
        self._processor = SentencePieceProcessor()
        self._processor.load_from_serialized_proto(_checked_file().read_bytes())
        self._counts: dict[bytes, int] = {}

    def count(self, text: str) -> int:
        """Number of tokens of `text`; 0 for the empty string."""
        readable = text.encode("utf-8", "replace")
        digest = blake2b(readable, digest_size=16).digest()
        held = self._counts.get(digest)
        if held is None:
            held = len(self._processor.encode(readable.decode("utf-8"), return_type="numpy"))
            if len(self._counts) >= MOST_COUNTS:
                self._counts.clear()
            self._counts[digest] = held
        return held

    def truncate(self, text: str, max_tokens: int) -> str:
        """The prefix of `text` that ends where its token number `max_tokens` does, or the whole text.

        It has at most `max_tokens` tokens itself, and never part of a character. Takes time by `max_tokens`, not
        by the length of the text.
        """
        if max_tokens <= 0:
            return ""
        # No piece is longer than _LONGEST_PIECE, so the first tokens are all in the head.
        head = text[: (max_tokens + 1) * _LONGEST_PIECE]
        offsets: Any = self._processor.encode(_readable(head), return_type="offset_mapping")["offsets"]
        if len(offsets) <= max_tokens:
            return head
        # A merge of pieces never crosses a place where the result is split, so a prefix cut there keeps its
        # tokens. The loop only makes sure of it: a character written as bytes may end in the middle of a token.
        for cut in _ends_before(offsets, max_tokens):
            if self.count(prefix := text[:cut]) <= max_tokens:
                return prefix
        return ""


def _ends_before(offsets: list[tuple[int, int]], max_tokens: int) -> list[int]:
    """Where the tokens end from number `max_tokens` back to the first, in characters, each place once."""
    ends = [end for _, end in offsets[:max_tokens]]
    return list(dict.fromkeys(reversed(ends)))


def _readable(text: str) -> str:
    # Half a surrogate pair, which JSON can carry, becomes one question mark: the offsets stay.
    return text.encode("utf-8", "replace").decode("utf-8")


def _checked_file() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable(f"The package {PACKAGE.replace('_', '-')}, which carries the tokenizer, is missing.")
    path = Path(spec.submodule_search_locations[0]) / "data" / FILE
    if not path.is_file():
        raise ModelUnavailable(f"{path} is missing: install the package again.")
    found = sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ModelUnavailable(f"{path} is not the expected file: its SHA-256 is {found}, not {SHA256}.")
    return path
