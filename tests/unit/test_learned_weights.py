"""Weights learned from what was helpful: found where there is something to find, and only then."""

import numpy as np
import pytest

from app.domain.learned_weights import LEAST_RECALLS, LEAST_USERS, Judged, estimate, fit, judged_of
from app.domain.relevance import ARMS, DEFAULT_FUSION, weights_of

HELD = weights_of(DEFAULT_FUSION)
COSINE, WORDS = ARMS.index("cosine"), ARMS.index("words")


def recalls(weights: np.ndarray, *, users: int = 20, each: int = 8, noise: float = 0.3, seed: int = 1) -> list[Judged]:
    """Recalls of ten memories in the order of the weights that hold, of which the best by `weights` was helpful."""
    random = np.random.default_rng(seed)
    made: list[Judged] = []
    for user in range(users):
        for _ in range(each):
            arms = random.random((10, len(ARMS)))
            arms = arms[np.argsort(-(arms @ HELD), kind="stable")]
            best = int(np.argmax(arms @ weights + noise * random.standard_normal(10)))
            made.append(Judged(f"user-{user}", arms, np.zeros(10), np.arange(10) == best))
    return made


def test_what_counts_is_found() -> None:
    """Where only the cosine counts, its weight rises and that of words falls, and the gain is beyond chance."""
    true = np.zeros(len(ARMS))
    true[COSINE] = 20.0
    judged = recalls(true)
    learned = fit(judged, HELD)
    assert learned[COSINE] > 1.5 * HELD[COSINE]
    assert learned[WORDS] < 0.7 * HELD[WORDS]
    known = estimate(judged, HELD)
    assert known.is_gain
    assert known.low < known.gain < known.high
    assert known.learned > known.held


def test_where_the_weights_are_right_nothing_is_gained() -> None:
    judged = recalls(HELD, noise=0.5)
    known = estimate(judged, HELD)
    assert not known.is_gain
    assert known.low <= 0 <= known.high or known.gain == pytest.approx(0, abs=0.01)


def test_little_evidence_moves_little_and_promotes_nothing() -> None:
    true = np.zeros(len(ARMS))
    true[COSINE] = 20.0
    few = recalls(true, users=3, each=2)
    assert np.abs(fit(few, HELD) - HELD).max() < np.abs(fit(recalls(true), HELD) - HELD).max()
    assert not estimate(few, HELD).is_gain
    assert estimate([], HELD).recalls == 0
    assert LEAST_RECALLS > 6
    assert LEAST_USERS > 3


def test_no_weight_turns_its_sign() -> None:
    """An arm that misleads is silenced, not reversed: what is near is never worse for being near."""
    true = -HELD * 3
    assert (np.sign(fit(recalls(true), HELD)) * np.sign(HELD) >= 0).all()


def test_what_is_seen_first_counts_less() -> None:
    """The same evidence from a lower place weighs more: fewer looked there."""
    arms = np.tile(np.linspace(1, 0, 10)[:, None], (1, len(ARMS)))
    first = Judged("u", arms, np.zeros(10), np.arange(10) == 0)
    last = Judged("u", arms, np.zeros(10), np.arange(10) == 9)
    moved = [np.abs(fit([each] * 20, HELD) - HELD).max() for each in (first, last)]
    assert moved[1] > moved[0]


def test_a_recall_is_read_back() -> None:
    """What is beside the arms stays as it was; what cannot teach is left out."""
    arms = [[0.1 * place] * len(ARMS) for place in (3, 2, 1)]
    shown = [
        {"id": str(place), "arms": arm, "log_odds": float(np.dot(arm, HELD)) + 1.0} for place, arm in enumerate(arms)
    ]
    shown.append({"id": "standing"})
    judged = judged_of("u", shown, ["1"], HELD.tolist())
    assert judged is not None
    assert judged.rest.tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert judged.helpful.tolist() == [False, True, False]
    assert judged_of("u", shown, [], HELD.tolist()) is None
    assert judged_of("u", shown, ["0", "1", "2"], HELD.tolist()) is None
    assert judged_of("u", shown, ["1"], []) is None
