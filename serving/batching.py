"""Which texts the model reads next: a pure policy over what waits.

Calls take turns, oldest first: the first in line brings its longest text, texts of about that length join from every
call that has its turn, and then it goes to the end of the line with what it has left. So nothing waits for a batch to
fill, and 1,000 texts of one call stand before a single text of another for one run.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from serving.backend import RunLimits
from serving.errors import ServingError
from serving.pooling import Vectors
from serving.tokens import TokenIds


@dataclass(eq=False, slots=True)
class Call:
    """The texts of one caller. Built by the caller, then owned by the model thread until it is done."""

    texts: Sequence[TokenIds]
    vectors: Vectors
    """Shape (len(texts), dimension), filled in as runs end."""
    done: Callable[[ServingError | None], None]
    """Called once by the model thread: all vectors are in place, or why they never will be."""
    is_abandoned: bool = False
    """Set by a caller who no longer waits; read before every run."""
    waiting: list[tuple[int, int]] = field(init=False)
    """(tokens, position) of the texts not yet run, shortest first."""
    unfinished: int = field(init=False)
    """Texts without a vector yet."""

    def __post_init__(self) -> None:
        self.waiting = sorted((len(ids), position) for position, ids in enumerate(self.texts))
        self.unfinished = len(self.waiting)


@dataclass(frozen=True, slots=True)
class Seat:
    """One text in a run."""

    call: Call
    position: int

    @property
    def ids(self) -> TokenIds:
        """The tokens to read."""
        return self.call.texts[self.position]


class Backlog:
    """The calls with texts left to run, in the order of their turns."""

    def __init__(self, limits: RunLimits, concurrency: int) -> None:
        """`concurrency`: how many calls take turns; those behind them wait for a place."""
        self._limits = limits
        self._concurrency = concurrency
        self._calls: list[Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, call: Call) -> None:
        """Put a call at the end of the line."""
        self._calls.append(call)

    def clear(self) -> list[Call]:
        """Take every call out of line."""
        calls, self._calls = self._calls, []
        return calls

    def next_run(self) -> list[Seat]:
        """Take out the texts to run next; empty when nobody waits any more."""
        self._calls = [call for call in self._calls if not call.is_abandoned]
        if not self._calls:
            return []
        first = self._calls[0]
        longest, position = first.waiting.pop()
        seats, width = [Seat(first, position)], longest
        for call in islice(self._calls, self._concurrency):
            width = self._join(call, seats, longest, width)
        places = min(self._concurrency, len(self._calls))
        self._calls = [*self._calls[1:places], first, *self._calls[places:]]
        self._calls = [call for call in self._calls if call.waiting]
        return seats

    def _join(self, call: Call, seats: list[Seat], longest: int, width: int) -> int:
        """Seat the texts of a call that are about as long as `longest`; the new width of the run."""
        low = bisect_left(call.waiting, (longest - self._limits.padding,))
        high = bisect_left(call.waiting, (longest + self._limits.padding + 1,))
        for index in reversed(range(low, high)):
            length, position = call.waiting[index]
            wider = max(width, length)
            if len(seats) >= self._limits.texts:
                break
            if (len(seats) + 1) * wider <= self._limits.tokens:
                del call.waiting[index]
                seats.append(Seat(call, position))
                width = wider
        return width
