"""When a call is made again, and after how long. Pure.

Retried are calls that only read, after anything that may pass; and calls that write, where it is certain that nothing
was begun: nobody was reached, or the service was too busy to take the request.
"""

from dataclasses import dataclass

TOO_BUSY = 429
PASSING = frozenset({TOO_BUSY, 502, 503, 504})
"""Answers of a moment."""


@dataclass(frozen=True)
class Retries:
    """At most `count` further tries. Without an answer that says when, the n-th one waits up to
    `first_wait_s` * 2**n; a wait above `longest_wait_s` is not waited for: the problem is the caller's then."""

    count: int = 2
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0

    def after_answer(
        self, status: int, retry_after_s: float | None, *, tries: int, is_read: bool, chance: float
    ) -> float | None:
        """Seconds to wait before the next try, None for none. `tries` were made; `chance` is a random number 0..1."""
        if tries > self.count or status not in (PASSING if is_read else {TOO_BUSY}):
            return None
        wait_s = self._wait_s(tries, chance) if retry_after_s is None else retry_after_s
        return wait_s if wait_s <= self.longest_wait_s else None

    def after_failure(self, *, was_connected: bool, tries: int, is_read: bool, chance: float) -> float | None:
        """The same, when no whole answer came."""
        if tries > self.count or (was_connected and not is_read):
            return None
        return self._wait_s(tries, chance)

    def _wait_s(self, tries: int, chance: float) -> float:
        """Between half and all of a time that doubles: clients that failed together come back apart."""
        return min(self.first_wait_s * 2 ** (tries - 1), self.longest_wait_s) * (1 + chance) / 2
