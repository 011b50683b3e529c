"""The floor of creating: QEMU clones of the same template and nothing else.

A seat (directory, overlays, namespace, cgroup) is made before the clock runs. What is timed is what no
system of this kind can leave out: start QEMU, load the device state, greet the agent.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from sandfleet.adapters.qemu import disks, migration
from sandfleet.adapters.qemu.chains import first_chain
from sandfleet.adapters.qemu.clone import load, seat
from sandfleet.adapters.qemu.config import (
    AGENT_SOCKET,
    DATA_OVERLAY,
    QMP_SOCKET,
    ROOT_OVERLAY,
)
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import Manifest, ProcessIdentity
from sandfleet.adapters.qemu.process import ProcessHandle
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.adapters.qemu.spawn import Spawned, SpawnRecipe, spawn
from sandfleet.adapters.qemu.standstill import thaw
from sandfleet.adapters.qemu.template import (
    DATA_EMPTY_FILE,
    DATA_FILE,
    MEMORY_FILE,
    ROOT_EMPTY_FILE,
    ROOT_FILE,
    STATE_FILE,
    Template,
)
from sandfleet.ports.guest import ExecOrder, Guest
from sandfleet.ports.hypervisor import MachineOrder
from sandfleet.ports.network import Network, NetworkSeat
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE
from sandfleet.worker.engine import engine
from sandfleet.worker.settings import WorkerSettings

IMAGE = "base"
COMMAND_TIMEOUT_S = 120.0


@dataclass(slots=True)
class BareClone:
    """A running clone with nothing around it."""

    machine: QemuMachine

    @property
    def guest(self) -> Guest:
        """Return the session with its agent."""
        return self.machine.guest

    @property
    def pid(self) -> int:
        """Return its QEMU's process id."""
        return self.machine.facts.pid

    async def execute(self, *argv: str) -> None:
        """Run a command by the agent alone and insist that it succeeds."""
        order = ExecOrder(f"bench-{secrets.token_hex(8)}", argv, user="root", cwd="/")
        await self.guest.start_exec(order)
        status = await self.guest.wait_exec(order.exec_id, timeout_s=COMMAND_TIMEOUT_S)
        if status.exit_code != 0:
            raise RuntimeError(f"{argv} ended with {status.exit_code}")

    async def destroy(self) -> None:
        """Remove it."""
        await self.machine.destroy()


class PreparedNetwork:
    """Hands out the tap of a namespace that was made before the clock ran."""

    def __init__(self, network: Network, tap: int) -> None:
        self._network = network
        self._tap = tap

    async def create(self, seat: NetworkSeat) -> int:
        """Return the tap's descriptor; it is the caller's from now on."""
        return self._tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


@dataclass(slots=True)
class Seat:
    """Everything on the host that a clone needs, except its QEMU. `saved` takes the template's place."""

    host: Host
    template: Template
    manifest: Manifest
    tap: int
    undo: AsyncExitStack
    saved: Path | None = None

    async def start(self) -> BareClone:
        """Start QEMU, load the state, greet the agent. A failure removes the seat."""
        async with self.undo.pop_all() as undo:
            directory = self.host.directory(self.manifest.machine_id)
            recipe = self.recipe(directory)
            spawned = await self.spawn(recipe)
            handle = ProcessHandle(spawned.process)
            qmp = await Qmp.connect(directory / QMP_SOCKET)
            await self._load(qmp, spawned.state_path)
            guest = await self.host.guests(directory / AGENT_SOCKET)
            undo.pop_all()
        self.host.busy.discard(self.manifest.machine_id)
        manifest = self.manifest_of(spawned.process, recipe)
        return BareClone(QemuMachine(self.host, manifest, Sessions(handle, qmp, guest)))

    async def spawn(self, recipe: SpawnRecipe) -> Spawned:
        """Start QEMU alone."""
        prepared = replace(self.host, network=PreparedNetwork(self.host.network, self.tap))
        return await spawn(prepared, self.manifest, recipe)

    async def _load(self, qmp: Qmp, state_path: str) -> None:
        if self.saved is None:
            await load(qmp, state_path)
        else:
            await migration.load_from(qmp, state_path, memory_format=migration.MAPPED)
            await thaw(qmp)

    def recipe(self, directory: Path) -> SpawnRecipe:
        """Return what its QEMU is started from."""
        template = self.template
        return SpawnRecipe(
            shape=template.shape,
            memory=template.file(MEMORY_FILE) if self.saved is None else None,
            state=self.saved or template.file(STATE_FILE),
            root=[directory / ROOT_OVERLAY, template.file(ROOT_FILE), template.backing("root")],
            data=[directory / DATA_OVERLAY, template.file(DATA_FILE), template.backing("data")],
            limits=limits(memory_mib=template.memory_mib, cpu_count=1),
        )

    def manifest_of(self, process: ProcessIdentity, recipe: SpawnRecipe) -> Manifest:
        """Return the manifest of the machine that runs in this seat."""
        return msgspec.structs.replace(
            self.manifest,
            process=process,
            root=first_chain(ROOT_DRIVE, [ROOT_OVERLAY], backings=recipe.root[1:]),
            data=first_chain(DATA_DRIVE, [DATA_OVERLAY], backings=recipe.data[1:]),
        )


@dataclass(frozen=True, slots=True)
class BareClones:
    """Makes bare clones of the image that the fleet uses."""

    hypervisor: QemuHypervisor
    host: Host
    template: Template
    order: MachineOrder

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: WorkerSettings) -> AsyncIterator[BareClones]:
        """Find the template and give back what the host was given."""
        hypervisor = engine(settings)
        assert isinstance(hypervisor, QemuHypervisor)
        await hypervisor.prepare()
        order = MachineOrder(IMAGE, settings.memory_base_mib, 1, 0)
        try:
            # The floor stands on the engine's inner parts on purpose: its port does more than the least.
            yield cls(hypervisor, hypervisor._host, await hypervisor._template_for(order), order)
        finally:
            await hypervisor.sweep()

    async def of_size(self, memory_mib: int) -> BareClones:
        """Return what makes clones of the template that has so much memory."""
        order = replace(self.order, memory_mib=memory_mib)
        return replace(self, template=await self.hypervisor._template_for(order), order=order)

    async def seat(self) -> Seat:
        """Prepare one clone up to the start of its QEMU."""
        template, undo = self.template, AsyncExitStack()
        manifest = seat(self.host, undo, self.order, template_version=template.version, shape=template.shape)
        directory = self.host.directory(manifest.machine_id)
        disks.copy_overlay(template.file(ROOT_EMPTY_FILE), directory / ROOT_OVERLAY)
        disks.copy_overlay(template.file(DATA_EMPTY_FILE), directory / DATA_OVERLAY)
        tap = await self.host.network.create(NetworkSeat(manifest.machine_id, manifest.slot))
        return Seat(self.host, template, manifest, tap, undo)

    async def clone(self) -> BareClone:
        """Prepare and start one, where time does not matter."""
        return await (await self.seat()).start()

    async def accelerator(self) -> str:
        """Return what runs guest code here, and why."""
        found = await self.hypervisor.accelerator()
        return f"{found.name} ({found.reason})"
