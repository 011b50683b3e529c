"""Machines that stand ready, with an identity of their own but without an owner.

Only the bookkeeping: `operations.fill_pool` makes and removes the machines.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from sandfleet.ports.hypervisor import Machine, MachineOrder


class WarmPool:
    """Ready machines of one shape, oldest first."""

    def __init__(self, *, order: MachineOrder, size: int) -> None:
        self.order = order
        self.size = size
        self.filling = 0
        self._ready: deque[Machine] = deque()
        self._poked = asyncio.Event()
        self._awaited: deque[asyncio.Future[Machine | None]] = deque()

    def __len__(self) -> int:
        return len(self._ready)

    async def claim(self, order: MachineOrder) -> Machine | None:
        """Hand out a machine of that shape, or the one that is just being made, or None.

        Egress is no part of the shape: it can be closed at once. Waiting for a machine
        that is half made is quicker than to make another one beside it.
        """
        if replace(order, network_enabled=True) != self.order:
            return None
        self.poke()
        if self._ready:
            return self._ready.popleft()
        if self.filling <= len(self._awaited):
            return None
        promised: asyncio.Future[Machine | None] = asyncio.get_running_loop().create_future()
        self._awaited.append(promised)
        try:
            return await promised
        except asyncio.CancelledError:
            if promised.done() and not promised.cancelled() and (machine := promised.result()) is not None:
                self.add(machine)
            raise
        finally:
            if promised in self._awaited:
                self._awaited.remove(promised)

    @contextmanager
    def making_one(self) -> Iterator[None]:
        """Count a machine that is being made; whoever waits for one that fails is told."""
        self.filling += 1
        try:
            yield
        finally:
            self.filling -= 1
            while len(self._awaited) > self.filling:
                self._hand_over(None)

    def add(self, machine: Machine) -> None:
        """Take a ready machine in, or hand it to the first who waits."""
        if not self._hand_over(machine):
            self._ready.append(machine)

    def _hand_over(self, machine: Machine | None) -> bool:
        while self._awaited:
            promised = self._awaited.popleft()
            if not promised.done():
                promised.set_result(machine)
                return True
        return False

    def discard(self, machine: Machine) -> bool:
        """Take a machine out that must not be handed out; say whether it was still here."""
        try:
            self._ready.remove(machine)
        except ValueError:
            return False
        return True

    def wanted(self, *, free_mib: int) -> int:
        """Return how many machines there should be, given the memory that nobody was promised."""
        return max(0, min(self.size, free_mib // self.order.memory_mib))

    def lacks(self, *, free_mib: int) -> bool:
        """Whether one more should be made."""
        return len(self._ready) + self.filling < self.wanted(free_mib=free_mib)

    def surplus(self, *, free_mib: int, version: str | None) -> Sequence[Machine]:
        """Take out and return what is too many, or of another template version than `version`."""
        outdated = [machine for machine in self._ready if machine.facts.template_version != version]
        for machine in outdated:
            self._ready.remove(machine)
        too_many = max(0, len(self._ready) - self.wanted(free_mib=free_mib))
        return [*outdated, *(self._ready.popleft() for _ in range(too_many))]

    def poke(self) -> None:
        """Something changed: let the filling look again."""
        self._poked.set()

    async def wait_poked(self, *, timeout_s: float) -> None:
        """Return at the next poke, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._poked.wait()
        except TimeoutError:
            return
        finally:
            self._poked.clear()
