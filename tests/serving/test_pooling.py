"""Token vectors are pooled as sentence-transformers does it; padding never counts."""

import numpy as np
import pytest

from serving.pooling import normalised, pool

HIDDEN = np.array([[[1, 2], [3, 6], [99, 99]], [[1, 0], [2, -4], [6, 1]]], np.float32)
LENGTHS = np.array([2, 3])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [[1, 2], [1, 0]]),
        ("lasttoken", [[3, 6], [6, 1]]),
        ("max", [[3, 6], [6, 1]]),
        ("mean", [[2, 4], [3, -1]]),
        ("mean_sqrt_len_tokens", [[4 / 2**0.5, 8 / 2**0.5], [9 / 3**0.5, -3 / 3**0.5]]),
        ("weightedmean", [[7 / 3, 14 / 3], [23 / 6, -5 / 6]]),
    ],
)
def test_each_mode(mode: str, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(pool(HIDDEN, LENGTHS, [mode]), expected, rtol=1e-6)


def test_several_modes_stand_side_by_side() -> None:
    found = pool(HIDDEN, LENGTHS, ["cls", "mean"])

    np.testing.assert_allclose(found, [[1, 2, 2, 4], [1, 0, 3, -1]])


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown pooling"):
        pool(HIDDEN, LENGTHS, ["attention"])


def test_a_vector_without_direction_stays() -> None:
    np.testing.assert_allclose(normalised(np.array([[3, 4], [0, 0]], np.float32)), [[0.6, 0.8], [0, 0]])
