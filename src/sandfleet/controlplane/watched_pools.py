"""Pools of machines whose every call has an end, and of which it is told whether they answer.

A pool that hangs is one that does not answer: to whoever asks it is `PoolUnreachable` after a while, with the
reason. What was asked may be done all the same; that is so with every call that gets no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from sandfleet.controlplane.dependencies import Observer
from sandfleet.model.errors import MachineRefused, PoolUnreachable
from sandfleet.model.launch import MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart
from sandfleet.ports.clock import Clock
from sandfleet.ports.machine_pool import MachinePool

CALL_S = 20.0
"""So long one call may take: of a loop's tick, which has several, a third."""
T = TypeVar("T")


class WatchedPool:
    """One pool (port: `ports.machine_pool.MachinePool`)."""

    def __init__(
        self, pool: MachinePool, observer: Observer, clock: Clock, *, call_s: float = CALL_S
    ) -> None:
        self.name: str = pool.name
        self.sizes: Sequence[MachineSize] = pool.sizes
        self._pool, self._observer, self._clock, self._call_s = pool, observer, clock, call_s

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Begin it, or return the one that is there."""
        return await self._asked(self._pool.launch(order, term=term))

    async def list(self) -> Sequence[Machine]:
        """Return all that are not gone."""
        return await self._asked(self._pool.list())

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Have it end."""
        return await self._asked(self._pool.terminate(machine_id, term=term))

    async def parts(self) -> Sequence[MachinePart]:
        """Return what nothing holds."""
        return await self._asked(self._pool.parts())

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Have it end."""
        return await self._asked(self._pool.remove(part, term=term))

    async def _asked(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._call_s):
                answer = await call
        except TimeoutError:
            error = PoolUnreachable(f"{self.name} has not answered within {self._call_s:.0f} s")
            self._tell(error.message)
            raise error from None
        except PoolUnreachable as error:
            self._tell(error.message)
            raise
        except MachineRefused:
            self._tell(None)
            raise
        self._tell(None)
        return answer

    def _tell(self, silence: str | None) -> None:
        self._observer.pool_asked(self.name, silence=silence, at=self._clock.now())


def watched(pools: Mapping[str, MachinePool], observer: Observer, clock: Clock) -> Mapping[str, MachinePool]:
    """Return them all so, in their order."""
    return {name: WatchedPool(pool, observer, clock) for name, pool in pools.items()}
