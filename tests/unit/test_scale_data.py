"""The scale benchmark's data and its measure of recall."""

from random import Random
from uuid import UUID, uuid4

import numpy as np
import pytest

from app.domain.memory import MemoryType
from benchmarks.scale.data import Pool, Vocabulary, changed_vectors, fit_change, memories_of, perturbed, user_sizes
from benchmarks.scale.load import Held
from benchmarks.scale.measure import recall

TEXTS = ["I met Anna in Berlin on 3 May", "the old boat needs paint again", "we cook for twelve people on Sundays"]


def units(count: int, dimension: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pool() -> Pool:
    vectors = units(200, 16, 0)
    change = fit_change(vectors, units(200, 16, 1) * 0.3 + vectors * np.sqrt(1 - 0.3**2, dtype=np.float32))
    return Pool([(MemoryType.PROFILE, text) for text in TEXTS], vectors[: len(TEXTS)], change)


def test_sizes_add_up_with_the_largest_first_and_nobody_without_memories() -> None:
    sizes = user_sizes(10_000, 1_000, 500)

    assert sizes.sum() == 10_000
    assert len(sizes) == 1_000
    assert sizes[0] == 500
    assert (np.diff(sizes[1:]) <= 0).all()
    assert sizes.min() >= 1


def test_more_users_than_memories_is_refused() -> None:
    with pytest.raises(ValueError, match="more users"):
        user_sizes(10, 20, 1)


@pytest.mark.parametrize("text", [*TEXTS, "Bye", "3"])
def test_a_changed_sentence_is_another_one(text: str) -> None:
    vocabulary = Vocabulary.of(TEXTS)
    random = Random(1)

    assert all(perturbed(text, vocabulary, random) != text for _ in range(300))


def test_changed_vectors_turn_by_the_measured_angles() -> None:
    vectors = units(5_000, 16, 2)
    change = pool().change
    changed = changed_vectors(vectors, change, np.random.default_rng(3))
    cosines = np.einsum("nd,nd->n", vectors, changed)

    assert np.linalg.norm(changed, axis=1) == pytest.approx(1, abs=1e-4)
    assert np.quantile(cosines, [0.1, 0.5, 0.9]) == pytest.approx(
        np.quantile(change.cosines, [0.1, 0.5, 0.9]), abs=0.02
    )


def test_each_user_gets_its_memories_in_mixed_order_and_the_same_with_every_run() -> None:
    sizes = user_sizes(12_000, 100, 3_000)
    first, again = list(memories_of(pool(), sizes, 7)), list(memories_of(pool(), sizes, 7))
    owners = np.concatenate([chunk.owners for chunk in first])
    ids = [memory_id for chunk in first for memory_id in chunk.ids]

    assert (np.bincount(owners) == sizes).all()
    assert len(set(ids)) == 12_000
    assert (np.diff(np.flatnonzero(owners == 0)) > 1).mean() > 0.5
    for chunk, other in zip(first, again, strict=True):
        assert chunk.rows == other.rows
        assert chunk.ids == other.ids
        assert (chunk.vectors == other.vectors).all()


def test_recall_counts_the_same_memories_and_those_as_near() -> None:
    ids = [uuid4() for _ in range(12)]
    angles = np.array([*np.linspace(0.1, 0.5, 9), 0.6, 0.60005, 1.0])
    held = Held(ids, np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    query = np.array([1, 0], np.float32)

    assert recall(held, query, ids[:10]) == (1, 1)
    assert recall(held, query, [*ids[:9], ids[10]]) == (0.9, 1)
    assert recall(held, query, [*ids[:9], ids[11]]) == (0.9, 0.9)


def test_of_a_user_with_few_memories_all_are_wanted() -> None:
    ids: list[UUID] = [uuid4(), uuid4()]
    held = Held(ids, units(2, 8, 4))

    assert recall(held, units(1, 8, 5)[0], ids) == (1, 1)
    assert recall(held, units(1, 8, 5)[0], ids[:1]) == (0.5, 0.5)
