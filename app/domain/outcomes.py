"""What became of a hypothesis set, and how likely that is given what the user meant.

P(outcome | meant), for each of the n readings shown and for "none of these": what a calibration is fitted by
(`app.domain.calibration`). Who means a reading that they look at picks it with the probability ACCURACY; who overlooks
it, or slips, picks another one with the probability SLIP, the more the more its place is looked at (trust in the first
ones; Agarwal et al. 2019), and else says it in their own words or that none is meant. Who means none of them says so.

| outcome | what it says |
|---|---|
| `selected` | as above: a choice far down says more than one at the top |
| `edited` | chosen, with own words added: the reading was meant, but for REFINED of them, who only began with it |
| `custom` | own words instead: none of them, or one that was overlooked |
| `rejected` | all turned down by name: none of them; they were looked at |
| `kept` | the service went ahead, and nobody undid it in KEPT_AFTER: right, or wrong and left so by STAYS of them |
| `undone` | the service went ahead, and it was turned down: wrong |
| `ignored` | asked, and not answered in IGNORED_AFTER: a little likelier where none is meant |

A reading that is turned down by name beside any of these is meant with the probability 1 - ACCURACY of what it was.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Literal

import numpy as np

from app.domain.decisions import Decision
from app.domain.logit import Array
from app.domain.position import PRIOR_EXAMINATION, Examination, inverse, offsets
from app.domain.value_of_information import ACCURACY

OutcomeKind = Literal["selected", "edited", "custom", "rejected", "kept", "undone", "ignored"]

SPOKEN: frozenset[OutcomeKind] = frozenset(("selected", "edited", "custom", "rejected", "undone"))
"""What a user said; the others are silences, and never count more than what was said."""

KEPT_AFTER = timedelta(days=1)
IGNORED_AFTER = timedelta(hours=1)

SLIP = 0.5
REFINED = 0.2
STAYS = 0.5
IGNORES, IGNORES_NONE = 0.4, 0.5

WEIGHTS: dict[OutcomeKind, float] = {"selected": 1.0, "edited": 0.5, "custom": 1.0, "rejected": 1.0, "kept": 0.3}
"""What each counts for among a user's earlier choices; the others say nothing of a reading."""


def kind_of(
    decision: Decision,
    outcome: str | None,
    *,
    chosen: int | None,
    rejected: Collection[int],
    is_edited: bool,
    is_answered: bool,
    age: timedelta,
) -> OutcomeKind | None:
    """What a stored outcome was, `age` after it was written down or, of a question without one, put; None where that is
    not known yet. `is_answered`: the question was answered, and another set goes on from it."""
    match outcome:
        case "selected":
            return "edited" if is_edited else "selected"
        case "custom":
            return "custom"
        case "none":
            return "rejected"
        case "assumed":
            return "undone" if 0 in rejected else "kept" if age >= KEPT_AFTER else None
        case _:
            is_silent = decision == "ask" and not is_answered and not rejected and chosen is None
            return "ignored" if is_silent and age >= IGNORED_AFTER else None


def likelihood(
    outcome: OutcomeKind,
    places: Sequence[int],
    chosen: int | None = None,
    rejected: Collection[int] = (),
    looked_at: Examination = PRIOR_EXAMINATION,
) -> Array:
    """(n + 1,), the last one for "none of these": P(outcome | meant), up to a factor that is the same for all. `places`
    are where the readings stood, from 1; `chosen` and `rejected` are readings by position, the most likely first."""
    size = len(places)
    seen = ACCURACY * np.exp(offsets(places, looked_at))
    if outcome in {"selected", "edited"} and chosen is not None:
        made = _picked(seen, chosen)
        if outcome == "edited":
            made = (1.0 - REFINED) * made + REFINED * _own_words(seen)
    elif outcome == "custom":
        made = _own_words(seen)
    elif outcome == "rejected":
        made, rejected = np.ones(size + 1), range(size)
    elif outcome == "kept":
        made = np.full(size + 1, STAYS)
        made[:1] = ACCURACY
    elif outcome == "undone":
        made = np.full(size + 1, 1.0 - STAYS)
        made[:1] = 1.0 - ACCURACY
    else:
        made = np.append(np.full(size, IGNORES), IGNORES_NONE)
    for each in set(rejected) - ({0} if outcome == "undone" else set()):
        made[each] *= (1.0 - ACCURACY) / ACCURACY
    return made


def weight(outcome: OutcomeKind, place: int, looked_at: Examination = PRIOR_EXAMINATION) -> float:
    """What an earlier outcome counts for a reading that was chosen, went ahead or was turned down at a place, from 1:
    of a choice the inverse of how likely the place is looked at."""
    own = WEIGHTS.get(outcome, 0.0)
    return own * inverse(place, looked_at) if outcome in {"selected", "edited"} else own


def kept_share(confidence: float) -> float:
    """How likely what the service went ahead with was right, once nobody has undone it, given its confidence."""
    right = ACCURACY * confidence
    return right / (right + STAYS * (1.0 - confidence)) if right else 0.0


def _picked(seen: Array, chosen: int) -> Array:
    """P(this one is picked | meant)."""
    size = len(seen)
    others = np.maximum(1e-12, seen.sum() - seen)
    made = (1.0 - seen) * SLIP * seen[chosen] / others
    made[chosen] = seen[chosen]
    return np.append(made, (1.0 - ACCURACY) * seen[chosen] / seen.sum() if size else 1.0)


def _own_words(seen: Array) -> Array:
    """P(something else is said | meant)."""
    return np.append((1.0 - seen) * (1.0 - SLIP), ACCURACY)
