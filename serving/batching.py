"""Which texts the model reads next: a pure policy over what waits.

Calls take turns, oldest first: the first in line brings its longest text, texts that need as wide a row join from every
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
    waiting: list[tuple[int, int, int]] = field(init=False)
    """(width, tokens, position) of the texts not yet run, narrowest first; set by the Backlog."""
    unfinished: int = field(init=False)
    """Texts without a vector yet."""

    def __post_init__(self) -> None:
        self.waiting = []
        self.unfinished = len(self.texts)


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
        lengths = [len(ids) for ids in call.texts]
        call.waiting = sorted((max(1, self._limits.width(each)), each, place) for place, each in enumerate(lengths))
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
        width, _, position = first.waiting.pop()
        seats = [Seat(first, position)]
        most = min(self._limits.texts, self._limits.tokens // width)
        for call in islice(self._calls, self._concurrency):
            if len(seats) >= most:
                break
            self._join(call, seats, width, most - len(seats))
        places = min(self._concurrency, len(self._calls))
        self._calls = [*self._calls[1:places], first, *self._calls[places:]]
        self._calls = [call for call in self._calls if call.waiting]
        return seats

    def _join(self, call: Call, seats: list[Seat], width: int, room: int) -> None:
        """Seat the longest `room` texts of a call among those that nearly fill a row of `width` tokens."""
        low = bisect_left(call.waiting, (width - self._limits.padding,))
        high = bisect_left(call.waiting, (width + 1,))
        low = max(low, high - room)
        seats += [Seat(call, position) for _, _, position in reversed(call.waiting[low:high])]
        del call.waiting[low:high]
