"""Whether a model answered in a language that its user can read."""

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from py3langid.langid import MODEL_FILE, LanguageIdentifier

SURE = 0.9
"""Probability from which an answer's language counts as known."""

NEAR = 5
"""A short text's language is a guess: the user's may be any of so many likeliest ones."""

SPOKEN_BY_ALL = "en"
"""What the built-in rules speak too: falling back from it would gain nothing."""


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def warm() -> None:
    """Load the model of languages: most of a second, and some 60 MB."""
    _identifier()


def is_foreign(answer: str, said: Sequence[str]) -> bool:
    """Whether `answer` is surely in a language that is neither English nor near to any of the texts in `said`."""
    language, probability = _ranked(answer)[0]
    if probability < SURE or language == SPOKEN_BY_ALL:
        return False
    return all(language not in {name for name, _ in _ranked(text)[:NEAR]} for text in said)


def _ranked(text: str) -> list[tuple[str, float]]:
    """Languages with their probabilities, likeliest first."""
    return cast("list[tuple[str, float]]", _identifier().rank(text))
