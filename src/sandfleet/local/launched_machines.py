"""The supervisor's side of the local machine pool: which workers it is asked for, and what became of them.

Rule 1: what a machine has for its life, its slot and its port, is written down before its process starts.
Rule 2: a machine is gone when its process has ended, its VMs have, and its files are deleted; that is said
last, so that a supervisor that dies half-way has the rest done by the next one.
Rule 3: nobody else changes a report, and this side changes no order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sandfleet.adapters.machines.local_orders import (
    LocalCondition,
    LocalMachine,
    LocalMachinesDirectory,
    LocalOrder,
    LocalReport,
)
from sandfleet.local.ports import HeldPorts


@dataclass(frozen=True, slots=True)
class PlacedMachine:
    """A machine with what it has for its life."""

    order: LocalOrder
    slot: int
    port: int


class LaunchedMachines:
    """The machines of one directory."""

    def __init__(self, directory: Path, *, slots: Collection[int], ports: HeldPorts) -> None:
        """Take note of the slots that nobody else has; a machine's port is held while there is one."""
        self._directory = LocalMachinesDirectory(directory)
        self._slots = sorted(slots)
        self._ports = ports
        self._placed: dict[str, PlacedMachine] = {}

    def wanted(self) -> list[PlacedMachine]:
        """Return those that are to run; one for which no slot is free waits."""
        living = [one for one in self._directory.machines() if not one.is_gone]
        taken = {one.report.slot for one in living if one.report is not None}
        wanted = []
        for machine in living:
            if machine.order.is_ending:
                continue
            placed = self._placed.get(machine.order.launch_id) or self._place(machine, taken)
            if placed is not None:
                taken.add(placed.slot)
                wanted.append(placed)
        return wanted

    def ending(self) -> list[LocalOrder]:
        """Return those that are to end, and are not gone."""
        return [one.order for one in self._directory.machines() if one.order.is_ending and not one.is_gone]

    def say_running(self, worker_ids: Iterable[str]) -> None:
        """Report which of them have come up."""
        up = set(worker_ids)
        for machine in self._directory.machines():
            report = machine.report
            is_news = report is not None and report.condition is LocalCondition.STARTING
            if report is not None and is_news and machine.order.worker_id in up:
                running = msgspec.structs.replace(report, condition=LocalCondition.RUNNING)
                self._directory.report(machine.order.launch_id, running)

    def say_gone(self, order: LocalOrder) -> None:
        """Report that nothing is left of it. Its slot and its port are free from now on."""
        placed = self._placed.pop(order.launch_id, None)
        if placed is not None:
            self._ports.let_go(placed.port)
        self._directory.report(order.launch_id, LocalReport(LocalCondition.GONE))

    def _place(self, machine: LocalMachine, taken: Collection[int]) -> PlacedMachine | None:
        """Give it a slot and a port; after a restart it keeps its slot, and its port while that is free."""
        order, before = machine.order, machine.report
        free = next((one for one in self._slots if one not in taken), None)
        slot = free if before is None else before.slot
        if slot is None:
            return None
        placed = PlacedMachine(order, slot, self._ports.choose(before.port if before else 0))
        report = before or LocalReport()
        self._directory.report(
            order.launch_id, msgspec.structs.replace(report, slot=placed.slot, port=placed.port)
        )
        self._placed[order.launch_id] = placed
        return placed


def slots_lent(directory: Path) -> frozenset[int]:
    """Return the slots that launched machines have."""
    machines = LocalMachinesDirectory(directory).machines()
    return frozenset(one.report.slot for one in machines if one.report is not None and not one.is_gone)
