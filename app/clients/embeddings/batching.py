"""Which texts the model reads next: a pure policy over what waits, with the time as an argument.

Oldest first, but a call is charged for the time it takes, so 1,000 texts of one call never stand before a single
text of another for longer than one run. Texts share a run when reading them together is cheaper than apart.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.domain.embeddings import Vectors

Pieces = NDArray[np.int32]
"""Word-piece ids of one text, shape (pieces,), int32, [CLS] and [SEP] included."""

TOKENS_PER_RUN = 128
"""Most pieces × texts of a run (a longer text runs alone). 128 reach 98 % of the best throughput (the float32
products are bound by arithmetic from 64 on) and keep a run, which cannot be interrupted, at 30 ms."""

TOKENS_PER_RUN_OVERHEAD = 6
"""What starting a run costs, in pieces: reading the weights once takes 1.4 ms, a piece 0.24 ms. Padding a text by
less than that is cheaper than giving it its own run."""

CHARGE = 4.0
"""How much later than an idle newcomer a call stands in line, per second of model time it just used."""


@dataclass(eq=False, slots=True)
class Call:
    """The texts of one caller. Built by the caller, then owned by the model thread until it is done."""

    texts: Sequence[Pieces]
    due_s: float
    """Its place in line: when it came, moved back by what it used since. Seconds on the monotonic clock."""
    vectors: Vectors
    """Shape (len(texts), dimension), filled in as runs end."""
    done: Callable[[Exception | None], None]
    """Called once by the model thread: all vectors are in place, or why they never will be."""
    is_abandoned: bool = False
    """Set by a caller who no longer waits; read before every run."""
    waiting: list[tuple[int, int]] = field(init=False)
    """(pieces, position) of the texts not yet run, shortest first."""
    unfinished: int = field(init=False)
    """Texts without a vector yet."""

    def __post_init__(self) -> None:
        self.waiting = sorted((len(pieces), position) for position, pieces in enumerate(self.texts))
        self.unfinished = len(self.waiting)


@dataclass(frozen=True, slots=True)
class Seat:
    """One text in a run."""

    call: Call
    position: int

    @property
    def pieces(self) -> Pieces:
        """The word pieces to read."""
        return self.call.texts[self.position]


class Backlog:
    """The calls with texts left to run, first in line first."""

    def __init__(self, tokens_per_run: int = TOKENS_PER_RUN) -> None:
        self._tokens_per_run = tokens_per_run
        self._calls: list[Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, call: Call) -> None:
        """Put a call in line."""
        insort(self._calls, call, key=_due)

    def clear(self) -> list[Call]:
        """Take every call out of line."""
        calls, self._calls = self._calls, []
        return calls

    def next_run(self) -> list[Seat]:
        """Take out the texts to run next; empty when nobody waits any more.

        The first in line brings its longest text. Then, in line order, texts of about that length join, each as
        long as it makes less padding than a run of its own would cost.
        """
        self._calls = [call for call in self._calls if not call.is_abandoned]
        if not self._calls:
            return []
        first = self._calls[0]
        longest, position = first.waiting.pop()
        seats = [Seat(first, position)]
        for call in self._calls:
            longest = self._join(call, seats, longest)
            if (len(seats) + 1) * longest > self._tokens_per_run:
                break
        self._calls = [call for call in self._calls if call.waiting]
        return seats

    def charge(self, seats: Sequence[Seat], took_s: float, now_s: float) -> None:
        """Move the calls of a run that `took_s` back in line for it, by their share of the texts' pieces.

        Never further than behind who comes CHARGE runs from now, so that no call starves.
        """
        total = sum(len(seat.pieces) for seat in seats)
        for seat in seats:
            cost_s = CHARGE * took_s * len(seat.pieces) / total
            seat.call.due_s = min(seat.call.due_s + cost_s, now_s + CHARGE * took_s)
        self._calls.sort(key=_due)

    def _join(self, call: Call, seats: list[Seat], longest: int) -> int:
        """Seat what fits of one call, long texts first; the new longest length."""
        most = longest + TOKENS_PER_RUN_OVERHEAD // len(seats)
        index = bisect_left(call.waiting, (most + 1,)) - 1
        while index >= 0:
            length, position = call.waiting[index]
            wider = max(longest, length)
            padding = len(seats) * (wider - longest) + (wider - length)
            if wider - length > TOKENS_PER_RUN_OVERHEAD or (len(seats) + 1) * longest > self._tokens_per_run:
                break
            if padding <= TOKENS_PER_RUN_OVERHEAD and (len(seats) + 1) * wider <= self._tokens_per_run:
                del call.waiting[index]
                seats.append(Seat(call, position))
                longest = wider
            index -= 1
        return longest


def _due(call: Call) -> float:
    return call.due_s
