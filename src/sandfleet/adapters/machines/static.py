"""Hosts that somebody owns and puts up by hand: the fleet uses them, and neither begins nor ends one."""

from __future__ import annotations

from collections.abc import Sequence

from sandfleet.adapters.machines.terms import newest_of
from sandfleet.model.errors import MachineRefused
from sandfleet.model.launch import LaunchFailure, MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart


class StaticMachinePool:
    """A pool without machines of its own: workers that no launch names belong to it."""

    name = "static"
    sizes: Sequence[MachineSize] = ()

    def __init__(self) -> None:
        self._term = 0

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Refuse it: for long."""
        self._term = newest_of(self._term, term)
        raise MachineRefused("hosts of one's own are added by their owner", failure=LaunchFailure.QUOTA)

    async def list(self) -> Sequence[Machine]:
        """Return none: nothing here carries a tag, so no sweep comes near it."""
        return []

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Say that there is no such machine of the fleet's."""
        self._term = newest_of(self._term, term)
        return True

    async def parts(self) -> Sequence[MachinePart]:
        """Return none: these hosts are their owner's with all that they have."""
        return []

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Say that there is no such part of the fleet's."""
        self._term = newest_of(self._term, term)
        return True
