"""Points in a fake at which a test may wait, or make it fail."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque


class Faults:
    """Named steps: `hold` stops whoever comes by, `fail` makes the next one raise."""

    def __init__(self) -> None:
        self._errors: defaultdict[str, deque[Exception]] = defaultdict(deque)
        self._gates: dict[str, asyncio.Event] = {}
        self._reached: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def fail(self, step: str, error: Exception, *, times: int = 1) -> None:
        """Raise `error` at the next `times` passes."""
        self._errors[step].extend([error] * times)

    def hold(self, step: str) -> None:
        """Stop everyone at `step` until `release`."""
        self._gates[step] = asyncio.Event()

    def release(self, step: str) -> None:
        """Let everyone at `step` go on."""
        self._gates.pop(step).set()

    async def reached(self, step: str) -> None:
        """Return when somebody has come to `step`, now or before."""
        await self._reached[step].wait()

    async def at(self, step: str) -> None:
        """Pass `step`."""
        self._reached[step].set()
        if step in self._gates:
            await self._gates[step].wait()
        if self._errors[step]:
            raise self._errors[step].popleft()
