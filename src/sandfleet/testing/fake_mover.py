"""Live migration between fake hosts (port: `ports.moves.Mover`): the guest's inside goes over as it is.

The two hosts know each other by one `Wires`, which stands for the network between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sandfleet.model.errors import HypervisorFailed
from sandfleet.model.move import Course, MoveGround, MoveSample, Outcome
from sandfleet.ports.hypervisor import Machine, MachineOrder
from sandfleet.ports.moves import Arrival, FetchBackings, Pilot, Tell
from sandfleet.testing.fake_hypervisor import FakeHypervisor, FakeMachine
from sandfleet.testing.fake_snapshots import a_manifest
from sandfleet.wire.move_manifest import Landing, MovedDisk, MoveManifest
from sandfleet.wire.worker_messages import VmStatus

BANDWIDTH = 100 << 20


@dataclass
class Wires:
    """Machines that are expected, by the key of their move, and those that have landed."""

    expected: dict[str, FakeMachine] = field(default_factory=dict)
    landed: set[str] = field(default_factory=set)


class FakeMover:
    """The moves of one fake host."""

    def __init__(self, host: FakeHypervisor, wires: Wires) -> None:
        self._host = host
        self._wires = wires
        self._sent: set[str] = set()

    async def describe(self, machine: Machine) -> MoveManifest:
        """Return its shape."""
        facts = machine.facts
        order = facts.order
        status = VmStatus(sandbox_id=facts.owner or "", epoch=facts.epoch, state="running")
        disk = MovedDisk(size_bytes=order.disk_mib << 20, backings=["digest-1"])
        return MoveManifest(
            owner=facts.owner or "",
            epoch=facts.epoch,
            template=order.template,
            template_version=facts.template_version,
            image_digest="image-1",
            memory_mib=order.memory_mib,
            cpu_count=order.cpu_count,
            disk_mib=order.disk_mib,
            network_enabled=order.network_enabled,
            shape=a_manifest("none", status).shape,
            root=disk,
            data=disk,
        )

    async def backings(self, machine: Machine) -> dict[str, Path]:
        """Fake disks stand on nothing."""
        return {}

    async def receive(self, arrival: Arrival, fetch: FetchBackings) -> tuple[Machine, Landing]:
        """Make an empty machine that nobody is served by."""
        await self._host.faults.at("receive")
        moved = arrival.manifest
        order = MachineOrder(moved.template, moved.memory_mib, moved.cpu_count, moved.disk_mib)
        machine = await self._host.clone(order)
        await machine.assign(arrival.owner, epoch=arrival.epoch)
        self._wires.expected[arrival.move_id] = machine
        return machine, _landing(arrival.move_id)

    async def landing(self, machine: Machine) -> Landing:
        """Return it again."""
        return _landing(self._move_of(machine))

    async def landed(self, machine: Machine) -> None:
        """Return when its inside is here."""
        await self._host.faults.at("landed")
        if self._move_of(machine) not in self._wires.landed:
            raise HypervisorFailed("the machine has not arrived")

    async def take_over(self, machine: Machine, *, tell: Tell) -> Mapping[str, float]:
        """Run it."""
        await self._host.faults.at("take_over")
        await self.landed(machine)
        await tell(machine.guest)
        return {"told": 0.0}

    async def send(self, machine: Machine, landing: Landing, *, move_id: str, pilot: Pilot) -> None:
        """Give the inside over, as the pilot wants it."""
        assert isinstance(machine, FakeMachine)
        pilot.way(MoveGround(may_run=True, may_post_copy=False))
        await self._host.faults.at("send")
        samples = [_sample(1, 64 << 20), _sample(2, 1 << 20)]
        for number in range(1, len(samples) + 1):
            if pilot.course(samples[:number]).course is Course.ABORT:
                raise HypervisorFailed("given up")
            await asyncio.sleep(0)
        pilot.switching()
        await self._host.faults.at("hand_over")
        target = self._wires.expected.get(landing.key)
        if target is None or not await target.is_alive():
            raise HypervisorFailed("nobody is there")
        machine.swap_guests(target)
        self._sent.add(machine.facts.machine_id)
        self._wires.landed.add(move_id)

    async def outcome(self, machine: Machine) -> Outcome:
        """Return what it has come to."""
        await self._host.faults.at("outcome")
        is_sent = machine.facts.machine_id in self._sent
        return Outcome.HANDED_OVER if is_sent else Outcome.STAYED

    async def sent(self, machine: Machine) -> None:
        """Return: nothing more is needed."""

    async def stay(self, machine: Machine) -> None:
        """Have the inside back."""
        assert isinstance(machine, FakeMachine)
        if machine.facts.machine_id in self._sent:
            self._sent.discard(machine.facts.machine_id)
            for move_id, target in self._wires.expected.items():
                if move_id in self._wires.landed and target.facts.owner == machine.facts.owner:
                    machine.swap_guests(target)
                    self._wires.landed.discard(move_id)
                    return

    def _move_of(self, machine: Machine) -> str:
        for move_id, expected in self._wires.expected.items():
            if expected is machine:
                return move_id
        raise HypervisorFailed("this machine comes by no move")


def _landing(move_id: str) -> Landing:
    return Landing(host="127.0.0.1", memory_port=1, disk_port=2, key=move_id, may_post_copy=False)


def _sample(number: int, left: int) -> MoveSample:
    return MoveSample(
        round=number,
        elapsed_s=float(number),
        silent_s=0.0,
        transferred_bytes=number << 26,
        remaining_bytes=left,
        dirty_bytes_per_s=1 << 20,
        bandwidth_bytes_per_s=BANDWIDTH,
        downtime_ms_expected=1000 * left / BANDWIDTH,
    )
