"""A provider without a network: under the same contract tests as the real ones."""

import asyncio
from collections.abc import Callable

from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import Progress, Provisioned


class FakeProvider:
    """Brings any model but `nowhere` when its gate opens; fails with `error` where that is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[tuple[str, bool]] = []
        self.most_at_once = 0
        self.error: Exception | None = None
        self._now = 0

    async def provision(self, model: Model, tell: Callable[[Progress], None], *, force: bool = False) -> Provisioned:
        self.begun.append((model.name, force))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            tell(Progress("pulling", 1, 2))
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            if model.name == "nowhere":
                raise ProvisionFailed("there is no such model")
            return Provisioned("downloaded", "brought", 2)
        finally:
            self._now -= 1

    async def aclose(self) -> None:
        """Nothing."""
