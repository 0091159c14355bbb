"""How many requests are open at once: more while a server answers, half as many where it says that it is too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """Additive increase, multiplicative decrease (Chiu and Jain 1989), after a slow start from one request.

    most: never more than so many. It belongs to one event loop.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = 1.0
        self.open = 0
        self.starting = True  # until the first rate limit, the limit grows by one with every answer
        self.era = 0  # of halvings: requests sent before one do not halve again
        self.lowest, self.highest = float(most), 1.0  # after a halving, and at all
        self._free = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Room for one request. Yields the era, for `slower`."""
        async with self._free:
            await self._free.wait_for(lambda: self.open < int(self.limit))
            self.open += 1
        try:
            yield self.era
        finally:
            async with self._free:
                self.open -= 1
                self._free.notify_all()

    def faster(self) -> None:
        """A request was answered."""
        self.limit = min(float(self.most), self.limit + (1.0 if self.starting else 1.0 / self.limit))
        self.highest = max(self.highest, self.limit)

    def slower(self, era: int) -> None:
        """A request that was sent in `era` met a rate limit."""
        if era != self.era:
            return
        self.era += 1
        self.starting = False
        self.limit = max(1.0, self.limit / 2)
        self.lowest = min(self.lowest, self.limit)
