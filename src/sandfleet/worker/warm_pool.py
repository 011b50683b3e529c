"""Machines that stand ready, with an identity of their own but without an owner.

Only the bookkeeping: `operations.fill_pool` makes and removes the machines.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
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

    def __len__(self) -> int:
        return len(self._ready)

    def claim(self, order: MachineOrder) -> Machine | None:
        """Hand out a machine of that shape. Egress is no part of it: it can be closed at once."""
        if replace(order, network_enabled=True) != self.order or not self._ready:
            return None
        self.poke()
        return self._ready.popleft()

    def add(self, machine: Machine) -> None:
        """Take a ready machine in."""
        self._ready.append(machine)

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
