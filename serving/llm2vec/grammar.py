"""Answers that keep to a JSON schema: which tokens may come next, by llguidance."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from serving.errors import InvalidInput
from serving.llm2vec.writing import Logits

_FIELD = "response_format"
_COMPACT = {"whitespace_flexible": False}
"""A small model can write blanks for ever where they are allowed."""


class Grammars:
    """Schemas become grammars over the tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, ends: set[int]) -> None:
        """Nothing is built yet."""
        self._tokenizer = tokenizer
        self._ends = ends
        self._built: Any = None

    def of(self, schema: Mapping[str, Any]) -> "Grammar":
        """The grammar of a schema. Raises InvalidInput for one that no answer can be held to, or where llguidance is
        not installed."""
        try:
            library: Any = import_module("llguidance")
        except ImportError:
            raise InvalidInput("response_format is not possible here: llguidance is not installed", _FIELD) from None
        if self._built is None:
            self._built = library.LLTokenizer(self._tokenizer.to_str(), eos_token=sorted(self._ends))
        try:
            written = library.LLMatcher.grammar_from_json_schema(dict(schema), overrides=_COMPACT)
        except ValueError:
            written = ""
        matcher = library.LLMatcher(self._built, written, log_level=0)
        if not written or matcher.is_error():
            raise InvalidInput("response_format has a schema that answers cannot be held to", _FIELD)
        return Grammar(matcher, self._built.vocab_size)


class Grammar:
    """What one answer may still say."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._numpy: Any = import_module("llguidance.numpy")
        self._mask = self._numpy.allocate_token_bitmask(1, vocabulary)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self, logits: Logits) -> Logits:
        """The logits, those of tokens that may not come next at minus infinity."""
        self._numpy.fill_next_token_bitmask(self._matcher, self._mask)
        kept = np.array(logits)
        self._numpy.apply_token_bitmask_inplace(kept, self._mask)
        return kept

    def take(self, token: int) -> None:
        """Go on behind a token that was allowed."""
        self._matcher.consume_token(token)
