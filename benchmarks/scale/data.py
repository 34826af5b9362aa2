"""A million memories made from a few thousand real ones, in bounded memory and the same with every run.

A memory is a real sentence with some of its words changed (`perturbed`); its vector is the sentence's vector with a
change drawn from what such changes of words do to real vectors (`fit_change`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from app.domain.embeddings import Vectors
from app.domain.memory import MemoryType

Numbers = NDArray[np.int64]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""When the benchmark searches; the memories are up to `AGE` older."""
AGE = timedelta(days=730)

OFFSET = 20
"""Of the Zipf-Mandelbrot law of users' sizes: the user of rank r holds a share in proportion to 1 / (r + 20)."""
REPLACED = 0.15
"""Share of the words of a sentence that become another word of the data."""
SWAPPED = 0.05
"""Share of the words that change places with the next one."""
RENAMED = 0.5
"""Share of the names that become another name."""
SUPERSEDED = 0.05
"""Share of the memories that no longer hold."""
CHUNK = 10_000
"""Memories made at a time: their vectors take 15 MB."""

_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Vocabulary:
    """What words are changed into: words of the data as often as they occur there, and its names."""

    words: Sequence[str]
    names: Sequence[str]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Vocabulary":
        """The words and the names (capitals in mid-sentence) of `texts`."""
        words = [word for text in texts for word in text.split() if word.isalpha() and word.islower()]
        names = sorted({name for text in texts for name in _NAME.findall(text)})
        return cls(words, names or ["Robin"])


def perturbed(text: str, vocabulary: Vocabulary, random: Random) -> str:
    """`text` with words replaced and swapped, names and numbers changed: never the same text."""
    changed = _NUMBER.sub(lambda found: str(random.randrange(1, 10 ** len(found[0]))), text)
    changed = _NAME.sub(
        lambda found: random.choice(vocabulary.names) if random.random() < RENAMED else found[0], changed
    )
    words = changed.split()
    for position in range(len(words)):
        dice = random.random()
        if dice < REPLACED:
            words[position] = random.choice(vocabulary.words)
        elif dice < REPLACED + SWAPPED and position + 1 < len(words):
            words[position], words[position + 1] = words[position + 1], words[position]
    changed = " ".join(words)
    return changed if changed != text else f"{text} {random.choice(vocabulary.words)}"


@dataclass(frozen=True)
class Change:
    """What changing words does to vectors: its directions' covariance as a factor (d, d), and the cosines of the
    changed vectors to what they were."""

    factor: Vectors
    cosines: NDArray[np.float32]


def fit_change(vectors: Vectors, changed: Vectors) -> Change:
    """The change from `vectors` to `changed`, row by row; both of unit length, shape (n, d)."""
    values, directions = np.linalg.eigh(np.cov(changed - vectors, rowvar=False))
    factor = (directions * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    return Change(factor, np.clip(np.einsum("nd,nd->n", vectors, changed), -1, 1))


def changed_vectors(vectors: Vectors, change: Change, dice: np.random.Generator) -> Vectors:
    """`vectors` of unit length (n, d), each turned by an angle drawn from the measured ones into a direction drawn
    from the fitted covariance."""
    noise = dice.standard_normal(vectors.shape, dtype=np.float32) @ change.factor.T
    noise -= np.einsum("nd,nd->n", noise, vectors)[:, None] * vectors
    cosines = dice.choice(change.cosines, len(vectors))[:, None]
    noise *= np.sqrt(1 - cosines**2) / np.linalg.norm(noise, axis=1, keepdims=True)
    return noise + cosines * vectors


def user_sizes(memories: int, users: int, largest: int) -> Numbers:
    """How much each user holds, largest first: one holds `largest`, the rest share what is left by a
    Zipf-Mandelbrot law, at least one each. Shape (users,), adding up to `memories`."""
    left = memories - largest - (users - 1)
    if left < 0:
        raise ValueError("there are more users than memories for them")
    weights = 1 / (np.arange(1, users) + OFFSET)
    ideal = left * weights / weights.sum()
    sizes = np.floor(ideal).astype(np.int64)
    sizes[: left - int(sizes.sum())] += 1
    return np.concatenate([[largest], 1 + sizes])


@dataclass(frozen=True)
class Pool:
    """The real sentences with their types and vectors (sentences, d)."""

    texts: Sequence[tuple[MemoryType, str]]
    vectors: Vectors
    change: Change


@dataclass(frozen=True)
class Chunk:
    """Some memories in the order in which they were made: their users, ids, the rest of each row, and vectors."""

    owners: Numbers
    ids: Sequence[UUID]
    rows: Sequence[tuple[Any, ...]]
    """Type, content, confidence, tags, slots, valid_from, valid_to."""
    vectors: Vectors


def memories_of(pool: Pool, sizes: Numbers, seed: int) -> Iterator[Chunk]:
    """Memories of all users, in the mixed order in which users of one service write: a user's rows do not lie side by
    side. User number u gets sizes[u] of them."""
    vocabulary = Vocabulary.of([text for _, text in pool.texts])
    random, dice = Random(seed), np.random.default_rng(seed)
    order = dice.permutation(np.repeat(np.arange(len(sizes)), sizes))
    for start in range(0, len(order), CHUNK):
        owners = order[start : start + CHUNK]
        chosen = dice.integers(0, len(pool.texts), len(owners))
        vectors = changed_vectors(pool.vectors[chosen], pool.change, dice)
        rows = [_row(pool.texts[int(index)], vocabulary, random) for index in chosen]
        yield Chunk(owners, [UUID(int=random.getrandbits(128), version=4) for _ in rows], rows, vectors)


def _row(sentence: tuple[MemoryType, str], vocabulary: Vocabulary, random: Random) -> tuple[Any, ...]:
    kind, text = sentence
    tags = [random.choice(("work", "home", "travel"))] if random.random() < 0.3 else []
    slots = [random.choice(("language", "deadline", "audience"))] if random.random() < 0.1 else []
    age = AGE * random.random()
    ended = NOW - age / 2 if random.random() < SUPERSEDED else None
    confidence = round(random.uniform(0.5, 1.0), 2)
    return kind.value, perturbed(text, vocabulary, random), confidence, tags, slots, NOW - age, ended
