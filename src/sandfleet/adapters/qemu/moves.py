"""The `Mover` port on QEMU."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from sandfleet.adapters.qemu.backings import Backings
from sandfleet.adapters.qemu.chains import chain_of, virtual_size
from sandfleet.adapters.qemu.describe import require_compatible, snapshot_shape
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.migration import CHANNELS
from sandfleet.adapters.qemu.probe import host_cpu_model
from sandfleet.adapters.qemu.qemu_version import qemu_version
from sandfleet.adapters.qemu.receive import landing_of, receive
from sandfleet.adapters.qemu.send import send
from sandfleet.adapters.qemu.stay import outcome, sent, stay
from sandfleet.adapters.qemu.take_over import landed, take_over
from sandfleet.model.errors import HypervisorFailed
from sandfleet.model.move import Outcome
from sandfleet.ports.hypervisor import Accelerator, Machine
from sandfleet.ports.moves import Arrival, FetchBackings, Pilot, Tell
from sandfleet.wire.move_manifest import Landing, MovedDisk, MoveManifest
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE

RECEIVE_TIMEOUT_S = 60.0
TAKE_OVER_TIMEOUT_S = 60.0


class QemuMover:
    """Moves of one host's machines."""

    def __init__(
        self, host: Host, accelerator: Callable[[], Awaitable[Accelerator]], backings: Backings
    ) -> None:
        self._host = host
        self._accelerator = accelerator
        self._backings = backings

    async def describe(self, machine: Machine) -> MoveManifest:
        """Return what a target must know of the machine."""
        return await asyncio.to_thread(self._describe, _ours(machine))

    async def receive(self, arrival: Arrival, fetch: FetchBackings) -> tuple[Machine, Landing]:
        """Make the place for a machine."""
        moved = arrival.manifest
        version = await qemu_version(self._host.config.qemu_binary)
        accelerator = (await self._accelerator()).name
        require_compatible(
            moved.shape, qemu_version=version, accelerator=accelerator, host_cpu=host_cpu_model()
        )
        digests = {*moved.root.backings, *moved.data.backings}
        wanted = await asyncio.to_thread(self._missing, digests)
        if wanted:
            await fetch(wanted)
        async with self._host.spawning:
            try:
                async with asyncio.timeout(RECEIVE_TIMEOUT_S):
                    return await receive(self._host, arrival, self._backings)
            except TimeoutError:
                raise HypervisorFailed(f"no place was made within {RECEIVE_TIMEOUT_S:g} s") from None

    async def landing(self, machine: Machine) -> Landing:
        """Return again where an arriving machine is expected."""
        return landing_of(self._host, _ours(machine).manifest)

    async def landed(self, machine: Machine) -> None:
        """Return when the arriving machine could run."""
        await landed(_ours(machine))

    async def take_over(self, machine: Machine, *, tell: Tell) -> Mapping[str, float]:
        """Have the arrived machine run."""
        ours = _ours(machine)
        async with ours.changing, asyncio.timeout(TAKE_OVER_TIMEOUT_S):
            return await take_over(self._host, ours, tell=tell)

    async def send(self, machine: Machine, landing: Landing, *, move_id: str, pilot: Pilot) -> None:
        """Return when the target has all it needs to run."""
        await send(self._host, _ours(machine), landing, move_id=move_id, pilot=pilot)

    async def outcome(self, machine: Machine) -> Outcome:
        """Return what an undecided hand-over has come to."""
        ours = _ours(machine)
        async with ours.changing:
            return await outcome(self._host, ours)

    async def sent(self, machine: Machine) -> None:
        """Return when the target needs nothing more of the machine."""
        await sent(_ours(machine))

    async def stay(self, machine: Machine) -> None:
        """Have the machine run here again."""
        ours = _ours(machine)
        async with ours.changing:
            await stay(self._host, ours)

    async def backings(self, machine: Machine) -> dict[str, Path]:
        """Return what the machine's disks stand on, by digest."""
        return await asyncio.to_thread(self._stands_on, _ours(machine))

    def _stands_on(self, machine: QemuMachine) -> dict[str, Path]:
        chains = (chain_of(machine.manifest, drive) for drive in (ROOT_DRIVE, DATA_DRIVE))
        paths = [Path(path) for chain in chains for path in chain.backings]
        return {self._backings.digest(path): path for path in paths}

    def _describe(self, machine: QemuMachine) -> MoveManifest:
        manifest = machine.manifest
        return MoveManifest(
            owner=manifest.owner or "",
            epoch=manifest.epoch,
            template=manifest.template,
            template_version=manifest.template_version,
            image_digest=manifest.image_digest,
            memory_mib=manifest.memory_mib,
            cpu_count=manifest.cpu_count,
            disk_mib=manifest.disk_mib,
            network_enabled=manifest.network_enabled,
            shape=snapshot_shape(manifest),
            root=self._disk(machine, ROOT_DRIVE),
            data=self._disk(machine, DATA_DRIVE),
            cpu_percent=manifest.cpu_percent,
            channels_max=CHANNELS,
        )

    def _disk(self, machine: QemuMachine, drive: str) -> MovedDisk:
        chain = chain_of(machine.manifest, drive)
        newest = self._host.directory(machine.manifest.machine_id) / chain.layers[0]
        return MovedDisk(
            size_bytes=virtual_size(newest),
            backings=[self._backings.digest(Path(path)) for path in chain.backings],
        )

    def _missing(self, digests: set[str]) -> dict[str, Path]:
        return {
            digest: self._backings.place(digest)
            for digest in sorted(digests)
            if self._backings.find(digest) is None
        }


def _ours(machine: Machine) -> QemuMachine:
    if not isinstance(machine, QemuMachine):
        raise HypervisorFailed("not a machine of this host")
    return machine
