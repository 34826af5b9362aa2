"""Deployments: which adapter answers whom, and when a canary has shown that users choose its readings less often."""

import hashlib
import math
from dataclasses import dataclass, replace

from app.domain.errors import InvalidInput

LEAST_ANSWERS = 10
"""Answered sets that either arm needs before the normal approximation of a share means anything."""

EFFECT = 0.1
"""The drop of the selection rate that the sequential test is tuned to find soonest (its prior's deviation)."""


@dataclass(frozen=True)
class Route:
    """Which adapter a tenant's users are answered by. `stack` are the adapters promoted to all, oldest first: the last
    one serves, without any the base model does. `candidate` answers a `share` of the users."""

    stack: tuple[str, ...] = ()
    candidate: str | None = None
    share: float = 0.0

    @property
    def stable(self) -> str | None:
        """The adapter that serves all but the canary; None: the base model."""
        return self.stack[-1] if self.stack else None

    def adapter_for(self, user_id: str) -> str | None:
        """The adapter for a user, always the same one while the route stands. A share that grows keeps its users."""
        is_canary = self.candidate is not None and place(self.candidate, user_id) < self.share
        return self.candidate if is_canary else self.stable

    def routed(self, user_id: str) -> "Routed | None":
        """Where chance has put a user while an adapter is tried; None where none is."""
        if self.candidate is None:
            return None
        is_candidate = self.adapter_for(user_id) == self.candidate
        return Routed(self.candidate, is_candidate, self.share if is_candidate else 1.0 - self.share)

    def serves(self, adapter: str) -> bool:
        """Whether any user is answered by it."""
        return adapter in {self.stable, self.candidate}

    def promoted(self, adapter: str, share: float) -> "Route":
        """The route with `adapter` for a share of the users, for all of them at 1. Raises InvalidInput."""
        if not 0 < share <= 1:
            raise InvalidInput("share is above 0 and at most 1.", field="share")
        if adapter == self.stable:
            raise InvalidInput(f"{adapter} serves everybody already.", field="run_id")
        if self.candidate not in {None, adapter}:
            raise InvalidInput(
                f"{self.candidate} is being tried: promote it to all or roll it back first.", field="run_id"
            )
        if share < 1:
            return replace(self, candidate=adapter, share=share)
        return Route((*(one for one in self.stack if one != adapter), adapter))

    def rolled_back(self, adapter: str) -> "Route":
        """The route without `adapter`, as it was before; a trial of another one goes on, unless that is the adapter
        which serves all again. Raises InvalidInput where it serves nobody."""
        if adapter == self.candidate:
            return Route(self.stack)
        if adapter == self.stable:
            before = Route(self.stack[:-1])
            is_tried = self.candidate not in {None, before.stable}
            return replace(before, candidate=self.candidate, share=self.share) if is_tried else before
        raise InvalidInput(f"{adapter} serves nobody.", field="run_id")


@dataclass(frozen=True)
class Routed:
    """The adapter that is tried, whether a set was to be made by it, and how likely that was. What became of it counts
    for where it was routed, whichever model answered (intention to treat)."""

    candidate: str
    is_candidate: bool
    propensity: float


@dataclass(frozen=True)
class Arm:
    """What users did with the sets of one adapter: `selected` of the `answered` ones."""

    answered: int = 0
    selected: int = 0

    @property
    def rate(self) -> float:
        """The selection rate, 0 without an answer."""
        return self.selected / self.answered if self.answered else 0.0


def chance_of_drop(serving: Arm, canary: Arm) -> float:
    """An always-valid p-value of "the canary's selection rate is not below": it may be looked at after every answer,
    and below alpha it is wrong with a probability of at most alpha, however often it was looked at.

    Mixture sequential probability ratio test on the difference of two shares with a normal mixture of deviation
    EFFECT (Johari et al. 2017, "Peeking at A/B Tests", eq. 11); 1 where the canary is not worse or too little is known.
    """
    if min(serving.answered, canary.answered) < LEAST_ANSWERS or canary.rate >= serving.rate:
        return 1.0
    pooled = (serving.selected + canary.selected + 1) / (serving.answered + canary.answered + 2)
    variance = pooled * (1 - pooled) * (1 / serving.answered + 1 / canary.answered)
    return chance_of(serving.rate - canary.rate, variance)


def chance_of(difference: float, variance: float) -> float:
    """The always-valid p-value of "no difference" for a difference of two shares seen with this variance."""
    total = variance + EFFECT**2
    exponent = EFFECT**2 * difference**2 / (2 * variance * total)
    ratio = math.sqrt(variance / total) * math.exp(min(exponent, 700.0))
    return min(1.0, 1.0 / ratio)


def place(trial: str, user_id: str) -> float:
    """Where a user stands among those of a trial (of an adapter, by its name), 0..1, evenly spread."""
    digest = hashlib.blake2b(f"{trial}\0{user_id}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
