"""In which order the options of a question are shown: the most likely first, and now and then in one that is drawn
evenly from all orders, so that it can be told what people choose because it stands first.

With the probability `shuffle` the order is drawn, every order alike, the likely one too; else it is the likely one. So
every order has a probability above 0, which is written down, and what people did under one order says what they would
have done under another (`app.domain.off_policy`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations
from math import factorial
from typing import Any

ORDER_VERSION = 1
"""Counts the forms that this rule has had: an order is made again by the one that made it."""


@dataclass(frozen=True)
class Order:
    """`ranks[i]` is the place, from 1, of the i-th likeliest option; `shuffle` the probability with which the order was
    to be drawn, and `is_drawn` whether it was."""

    ranks: tuple[int, ...]
    shuffle: float = 0.0
    is_drawn: bool = False

    @property
    def propensity(self) -> float:
        """The probability of this very order."""
        return propensity_of(self.ranks, self.shuffle)

    def propensity_at(self, place: int) -> float:
        """The probability with which the option at `place` of the likely order stands where it does."""
        evenly = self.shuffle / len(self.ranks)
        return evenly + (1.0 - self.shuffle if self.ranks[place] == place + 1 else 0.0)

    @property
    def record(self) -> dict[str, Any]:
        """As it is kept with its set."""
        return {
            "ranks": list(self.ranks),
            "shuffle": self.shuffle,
            "is_drawn": self.is_drawn,
            "propensity": self.propensity,
            "version": ORDER_VERSION,
        }


def likely_first(size: int) -> Order:
    """The order in which `size` options come."""
    return Order(tuple(range(1, size + 1)))


def drawn(size: int, shuffle: float, die: float) -> Order:
    """The order that a number in 0..1, evenly drawn by the caller, makes of `size` options."""
    likely = likely_first(size)
    if size < 2 or die < 1.0 - shuffle:
        return Order(likely.ranks, shuffle)
    count = factorial(size)
    at = min(count - 1, int((die - (1.0 - shuffle)) / shuffle * count))
    return Order(next(islice(permutations(likely.ranks), at, None)), shuffle, is_drawn=True)


def propensity_of(ranks: Sequence[int], shuffle: float) -> float:
    """The probability of an order; over all orders of a size they sum to 1."""
    is_likely = list(ranks) == sorted(ranks)
    return shuffle / factorial(len(ranks)) + (1.0 - shuffle if is_likely else 0.0)


def order_of(record: Mapping[str, Any]) -> Order:
    """An order as it was kept. Raises ValueError where another form of the rule made it."""
    if record["version"] != ORDER_VERSION:
        raise ValueError(f"this was ordered by version {record['version']} of the rule, and here is {ORDER_VERSION}")
    return Order(tuple(record["ranks"]), record["shuffle"], record["is_drawn"])
