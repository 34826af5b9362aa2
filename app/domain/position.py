"""What stands first is chosen more because it stands first: how likely each place is looked at, and how to learn from
choices all the same.

What is meant is chosen with the probability that its place is looked at (examination; the position-based model of
Craswell et al. 2008). Where the order of a list was drawn evenly, anything stands anywhere alike, so places are chosen
in proportion to how they are looked at, whatever is meant (Joachims, Swaminathan and Schnabel 2017 swap pairs for this;
Agarwal et al. 2019 harvest such exchanges from logs). Lists have different lengths, so the shares are those of Luce's
choice, by Hunter's steps (2004), with the prior as choices that were seen already.
"""

from collections.abc import Sequence

import numpy as np

from app.domain.logit import Array

PLACES = 5
"""The longest list."""

PRIOR_EXAMINATION = tuple(place**-0.5 for place in range(1, PLACES + 1))
"""Before any choice: attention falls with the root of the place, more gently than over a page of results."""

PRIOR_CHOICES = 50.0
"""How many choices among PLACES the prior counts as."""

LEAST_EXAMINATION = 0.2
"""Nobody overlooks an option of a short question more often than this says: no choice counts more than five times."""

_STEPS = 200
_TOLERANCE = 1e-9

Examination = tuple[float, ...]
"""The probability with which each place is looked at, the first one's being 1: (PLACES,)."""


def examination(chosen: Sequence[tuple[int, int]]) -> Examination:
    """How places are looked at, given lists in an order that was drawn evenly: for each the place that was chosen, from
    1, and how long it was."""
    held = np.array(PRIOR_EXAMINATION)
    wins: Array = PRIOR_CHOICES * held / held.sum()
    lists = np.zeros(PLACES + 1)
    lists[PLACES] = PRIOR_CHOICES
    for place, size in chosen:
        wins[place - 1] += 1.0
        lists[size] += 1.0
    at = held
    for _ in range(_STEPS):
        totals = np.cumsum(at)  # of a list of each length
        rivals = np.cumsum((lists[1:] / totals)[::-1])[::-1]  # of the lists that have each place
        moved = wins / rivals
        moved /= moved[0]
        is_done = np.abs(moved - at).max() < _TOLERANCE
        at = moved
        if is_done:
            break
    return tuple(float(each) for each in np.clip(at, LEAST_EXAMINATION, 1.0))


def inverse(place: int, looked_at: Examination = PRIOR_EXAMINATION) -> float:
    """What a choice at a place, from 1, counts for (inverse propensity score): 1 at the first, at most 1 /
    LEAST_EXAMINATION."""
    return 1.0 / max(LEAST_EXAMINATION, looked_at[min(place, PLACES) - 1])


def offsets(places: Sequence[int], looked_at: Examination = PRIOR_EXAMINATION) -> Array:
    """(n,) log-odds that options have by their places alone: to be added to what they are worth wherever a choice among
    them is modelled as a conditional logit, so that no more is learned of them than the choice says."""
    return np.log(np.array([looked_at[min(place, PLACES) - 1] for place in places]))
