"""Machines that are workers of this machine, started and ended by the supervisor of `sandfleet up`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import msgspec

from sandfleet.adapters.machines.local_orders import LocalMachine, LocalMachinesDirectory, LocalOrder
from sandfleet.adapters.machines.local_versions import LocalVersion, UnknownVersion, read_version
from sandfleet.adapters.own_threads import OwnThreads
from sandfleet.model.errors import MachineRefused, PoolUnreachable
from sandfleet.model.launch import LaunchFailure, MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart
from sandfleet.ports.clock import Clock

KEPT = timedelta(days=7)
CALLS_AT_ONCE = 4
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
T = TypeVar("T")


class LocalMachinePool:
    """Worker processes of this machine, at most so many and with so much memory together."""

    name = "local"

    def __init__(
        self,
        directory: Path,
        *,
        sizes: Sequence[MachineSize],
        machines_max: int,
        memory_max_mib: int,
        clock: Clock,
    ) -> None:
        self.sizes = tuple(sizes)
        self._directory = LocalMachinesDirectory(directory)
        self._machines_max = machines_max
        self._memory_max_mib = memory_max_mib
        self._clock = clock
        self._threads = OwnThreads("pool-local", at_once=CALLS_AT_ONCE)

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Write the order, unless it is there."""

        def work() -> Machine:
            self._directory.require_newest(term)
            known = {one.order.launch_id: one for one in self._directory.machines()}
            found = known.get(order.launch_id)
            if found is not None and found.is_gone:
                raise _broken(f"the machine of {order.launch_id} has ended already")
            if found is None:
                living = [one for one in known.values() if not one.is_gone]
                found = LocalMachine(self._accepted(order, living), None)
                self._directory.order(found.order)
                self._forget_old(known.values())
            return found.seen()

        return await self._locked(work)

    async def list(self) -> Sequence[Machine]:
        """Return those that are not gone."""

        def work() -> Sequence[Machine]:
            return [one.seen() for one in self._directory.machines() if not one.is_gone]

        return await self._locked(work)

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Mark the order; true when the supervisor has reported that nothing is left."""

        def work() -> bool:
            self._directory.require_newest(term)
            found = next(
                (one for one in self._directory.machines() if one.order.launch_id == machine_id), None
            )
            if found is None or found.is_gone:
                return True
            if not found.order.is_ending:
                self._directory.order(msgspec.structs.replace(found.order, is_ending=True))
            return False

        return await self._locked(work)

    async def parts(self) -> Sequence[MachinePart]:
        """Return none: what a machine has here goes before it is said to be gone."""
        return []

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Say that there is no such part of the fleet's."""
        await self._locked(lambda: self._directory.require_newest(term))
        return True

    def _accepted(self, order: MachineOrder, living: Sequence[LocalMachine]) -> LocalOrder:
        size = next((one for one in self.sizes if one.name == order.size), None)
        if size is None or not _NAME.fullmatch(order.launch_id):
            raise _broken(f"there is no size {order.size}, or {order.launch_id} cannot be a machine's name")
        if len(living) >= self._machines_max:
            raise MachineRefused(
                f"{len(living)} machines, {self._machines_max} at most", failure=LaunchFailure.QUOTA
            )
        version = self._version(order.version)
        taken_mib = sum(one.order.memory_mib for one in living)
        if taken_mib + size.resources.memory_mib > self._memory_max_mib:
            raise MachineRefused(
                f"{taken_mib} of {self._memory_max_mib} MiB are taken, {size.name} has "
                f"{size.resources.memory_mib} MiB",
                failure=LaunchFailure.STOCKOUT,
            )
        return LocalOrder(
            launch_id=order.launch_id,
            size=size.name,
            version=order.version,
            memory_mib=size.resources.memory_mib,
            cpu_count=size.resources.cpu_count,
            disk_mib=size.resources.disk_mib,
            asked_at=self._clock.now(),
            program=version.program,
            settings=version.settings,
        )

    def _version(self, name: str) -> LocalVersion:
        try:
            return read_version(self._directory.path, name)
        except UnknownVersion as error:
            raise _broken(str(error)) from error

    def _forget_old(self, known: Iterable[LocalMachine]) -> None:
        until = self._clock.now() - KEPT
        for one in known:
            if one.is_gone and one.order.asked_at < until:
                self._directory.forget(one.order.launch_id)

    async def _locked(self, work: Callable[[], T]) -> T:
        def done() -> T:
            with self._directory.locked():
                return work()

        try:
            return await self._threads.run(done)
        except (OSError, msgspec.DecodeError) as error:
            raise PoolUnreachable(f"{self._directory.path} cannot be used: {error}") from error


def _broken(message: str) -> MachineRefused:
    return MachineRefused(message, failure=LaunchFailure.BROKEN)
