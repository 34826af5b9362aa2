"""Holds the filling of a space back while searches are slower than they were before it began."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import quantiles

Probe = Callable[[], Awaitable[None]]
"""Does once what users wait for."""

PROBES = 20
"""Probes that are taken before the filling begins."""

LATEST = 5
"""Probes after which the pause is changed. What another pause does is seen by other probes."""

UNNOTICED_S = 0.02
"""What a search may take longer in any case: nobody notices, and a busy machine does as much to it by chance."""

APART_S = 0.1
EVERY_S = 0.5
FIRST_S = 0.5
"""The first pause: it begins gently, and gets quicker while searches do not mind."""
LONGEST_S = 2.0
SHORTEST_S = 0.05
SHORTER = 0.7
"""How much of a pause is left where searches do not mind."""


class Throttle:
    """A Pause: shorter and shorter while searches are quick, doubled while they are slow."""

    def __init__(self, probe: Probe, most: float, usual_s: float = 0.0) -> None:
        """`most`: how many times as long as before the filling a probe may take, by the upper quartile of the latest.
        `usual_s`: what that was; 0.0: it is measured first."""
        self._probe = probe
        self._most = most
        self.usual_s = usual_s
        self._seen: list[float] = []
        self._probed_at = 0.0
        self.pause_s = 0.0 if usual_s else FIRST_S
        """Before each batch."""

    async def __call__(self) -> float:
        """Returns when another batch does no harm; how many seconds it paused."""
        if not self.usual_s:
            await self.measure()
        if time.monotonic() - self._probed_at >= EVERY_S:
            self._seen.append(await self._timed())
            if len(self._seen) == LATEST:
                self.pause_s = self.next_pause()
                self._seen.clear()
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        return self.pause_s

    async def measure(self) -> None:
        """Take what probes need now for what is usual; apart from one another, as they are later: what was just done is
        done quicker once more."""
        before: list[float] = []
        for _ in range(PROBES):
            before.append(await self._timed())
            await asyncio.sleep(APART_S)
        self.usual_s = _quartile(before)

    @property
    def quartile_s(self) -> float:
        """The upper one of the latest probes: filling moves it, and what a busy machine does to one in ten does not."""
        return _quartile(self._seen)

    def next_pause(self) -> float:
        """What the pause becomes by what was seen last."""
        if self.quartile_s > max(self._most * self.usual_s, self.usual_s + UNNOTICED_S):
            return min(LONGEST_S, max(SHORTEST_S, 2 * self.pause_s))
        return SHORTER * self.pause_s if self.pause_s > SHORTEST_S else 0.0

    async def _timed(self) -> float:
        started = time.monotonic()
        await self._probe()
        self._probed_at = time.monotonic()
        return self._probed_at - started


def _quartile(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=4, method="inclusive")[-1] if len(seconds) > 1 else 0.0
