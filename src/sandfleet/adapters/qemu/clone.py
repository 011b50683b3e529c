"""Starting a copy-on-write clone of a template.

Its memory is the template's file, mapped privately; its disks are empty overlays;
its device state is loaded while QEMU waits. It gets a generation id of its own, by
which the guest's kernel knows that its random generator must be seeded anew; the
rest of its identity is given by the caller.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec

from sandfleet.adapters.awake import awake_timeout
from sandfleet.adapters.qemu import disks, memory
from sandfleet.adapters.qemu.chains import first_chain
from sandfleet.adapters.qemu.config import AGENT_SOCKET, DATA_OVERLAY, QMP_SOCKET, ROOT_OVERLAY
from sandfleet.adapters.qemu.erase import end_process, erase
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.launch import log_tail
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import READY, Manifest, write_manifest
from sandfleet.adapters.qemu.process import ProcessHandle, is_running
from sandfleet.adapters.qemu.qmp import Qmp, set_capabilities
from sandfleet.adapters.qemu.slots import new_machine_id
from sandfleet.adapters.qemu.spawn import Spawned, SpawnRecipe, spawn
from sandfleet.adapters.qemu.template import (
    DATA_EMPTY_FILE,
    DATA_FILE,
    ROOT_EMPTY_FILE,
    ROOT_FILE,
    STATE_FILE,
    Template,
)
from sandfleet.adapters.qemu.template_memory import resident_memory
from sandfleet.adapters.together import both
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.hypervisor import MachineOrder
from sandfleet.ports.network import NetworkSeat
from sandfleet.wire.qemu_command import DATA_DRIVE, ROOT_DRIVE, MachineShape

IGNORE_SHARED = "x-ignore-shared"
UNANNOUNCED = {"announce-rounds": 0}
"""Only the guest's own gateway would hear it, and knows it; a translated guest pays milliseconds for each."""
RESUME_TIMEOUT_S = 20.0


async def clone(host: Host, template: Template, order: MachineOrder) -> QemuMachine:
    """Return a running clone with its agent answering; a failure leaves nothing behind."""
    async with AsyncExitStack() as undo, awake_timeout(host.config.clone_timeout_s):
        manifest = seat(host, undo, order, template_version=template.version, shape=template.shape)
        machine_id = manifest.machine_id
        directory = host.directory(machine_id)
        await host.faults.at("clone.seated")
        overlays = (directory / ROOT_OVERLAY, directory / DATA_OVERLAY)
        disks.copy_overlay(template.file(ROOT_EMPTY_FILE), overlays[0])
        disks.copy_overlay(template.file(DATA_EMPTY_FILE), overlays[1])
        async with host.copying:  # one copy serves all who wait for it
            resident, reason = await resident_memory(host.config.memory_dir, template)
        if reason is not None:
            host.degradations["memory"] = f"checkpoints stop their guest: {reason}"
        recipe = SpawnRecipe(
            shape=template.shape,
            memory=resident,
            state=template.file(STATE_FILE),
            root=[overlays[0], template.file(ROOT_FILE), template.backing("root")],
            data=[overlays[1], template.file(DATA_FILE), template.backing("data")],
            limits=limits(memory_mib=template.memory_mib, cpu_count=order.cpu_count),
        )
        spawned = await spawn(host, manifest, recipe)
        undo.push_async_callback(end_process, spawned.process)
        await host.faults.at("clone.spawned")
        manifest = msgspec.structs.replace(
            manifest,
            process=spawned.process,
            image_digest=template.manifest.inputs.image_digest,
            qemu_version=template.manifest.inputs.qemu_version,
            host_cpu=template.manifest.inputs.host_cpu,
            root=first_chain(ROOT_DRIVE, [ROOT_OVERLAY], backings=recipe.root[1:]),
            data=first_chain(DATA_DRIVE, [DATA_OVERLAY], backings=recipe.data[1:]),
            memory_mib=template.memory_mib,
            cpu_count=1,
            disk_mib=template.data_disk_mib,
        )
        connecting = connect(host, manifest, spawned, enabled=order.network_enabled)
        wanted = memory.reachable(order.memory_mib, template.shape)
        opening = _open_sessions(host, undo, manifest, spawned, memory_mib=wanted)
        machine = await both(opening, connecting)
        await _fit(machine, order)
        machine.manifest = msgspec.structs.replace(machine.manifest, state=READY)
        write_manifest(directory, machine.manifest, durable=False)
        await host.faults.at("clone.ready")
        undo.pop_all()
        host.busy.discard(machine_id)
        return machine


def seat(
    host: Host, undo: AsyncExitStack, order: MachineOrder, *, template_version: str, shape: MachineShape
) -> Manifest:
    """Reserve slot and directory of a new machine; `undo` removes all of the machine."""
    machine_id = new_machine_id(host.config.tag, existing=host.busy)
    slot = host.slots.take()
    host.busy.add(machine_id)
    undo.callback(host.busy.discard, machine_id)
    undo.push_async_callback(erase, host, machine_id, process=None, slot=slot)
    manifest = Manifest(
        machine_id=machine_id,
        slot=slot,
        uid=host.uid(slot),
        template=order.template,
        template_version=template_version,
        memory_mib=order.memory_mib,
        cpu_count=order.cpu_count,
        disk_mib=order.disk_mib,
        network_enabled=order.network_enabled,
        shape=shape,
    )
    directory = host.directory(machine_id)
    directory.mkdir(mode=0o700, parents=True)
    write_manifest(directory, manifest, durable=False)
    return manifest


async def connect(host: Host, manifest: Manifest, spawned: Spawned, *, enabled: bool) -> None:
    """Connect the machine's network while its QEMU loads.

    The tap goes with a QEMU that ends: then its last words tell why, not what could not be connected.
    """
    try:
        await host.network.connect(NetworkSeat(manifest.machine_id, manifest.slot), enabled=enabled)
    except HypervisorFailed as error:
        if is_running(spawned.process):
            raise
        said = log_tail(host.directory(manifest.machine_id))
        raise HypervisorFailed(f"QEMU ended while it came up: {said}") from error


async def _open_sessions(
    host: Host, undo: AsyncExitStack, manifest: Manifest, spawned: Spawned, *, memory_mib: int
) -> QemuMachine:
    handle = ProcessHandle(spawned.process)
    undo.callback(handle.close)
    directory = host.directory(manifest.machine_id)
    try:
        qmp = await Qmp.connect(directory / QMP_SOCKET)
        undo.push_async_callback(qmp.close)
        await load(qmp, spawned.state_path)
        if memory_mib > manifest.memory_mib:
            # Asked for now, so that the guest takes it in while it wakes up; `_fit` waits for it.
            host.cgroups.set_limits(
                manifest.machine_id, limits(memory_mib=memory_mib, cpu_count=manifest.cpu_count)
            )
            await memory.ask(qmp, manifest.shape, memory_mib)
    except HypervisorFailed as error:
        raise HypervisorFailed(f"{error.message} {log_tail(directory)}".strip()) from error
    guest = await host.guests(directory / AGENT_SOCKET)
    undo.push_async_callback(guest.close)
    return QemuMachine(host, manifest, Sessions(handle, qmp, guest))


async def load(qmp: Qmp, state_path: str) -> None:
    """Load the device state and return when the guest runs."""
    with qmp.listen("RESUME") as resumed:
        await set_capabilities(qmp, [IGNORE_SHARED])
        await qmp.execute("migrate-set-parameters", UNANNOUNCED)
        await qmp.execute("migrate-incoming", {"uri": f"file:{state_path}"})
        await qmp.next_event(resumed, timeout_s=RESUME_TIMEOUT_S, awaited="that the guest runs")


async def _fit(machine: QemuMachine, order: MachineOrder) -> None:
    """Give the clone of a template the size that was ordered."""
    if order.disk_mib > machine.manifest.disk_mib:
        await machine.grow_disk(order.disk_mib)
    if order.cpu_count != machine.manifest.cpu_count:
        await machine.set_cpu_count(order.cpu_count)
    wanted = memory.reachable(order.memory_mib, machine.manifest.shape)
    if wanted == machine.manifest.memory_mib:
        return  # What the template has, no guest lacks.
    reached = await machine.resize_memory(wanted)
    if reached < wanted:
        raise HypervisorFailed(f"the guest took {reached} of {wanted} MiB")
