"""Succeed: load a snapshot beside the VM whose place it takes, and end that one when the new one answers."""

from __future__ import annotations

from sandfleet.model.errors import Conflict, StaleEpoch
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.worker_messages import StartVm
from sandfleet.worker.host import Host
from sandfleet.worker.metadata_service import serve_metadata
from sandfleet.worker.operations.follow_exec import follow_running
from sandfleet.worker.operations.load_vm import load_vm
from sandfleet.worker.operations.outfit import machine_order
from sandfleet.worker.operations.watch import watch
from sandfleet.worker.residents import Resident, VmState


def begin_beside(host: Host, known: Resident, order: StartVm) -> Resident:
    """Load a snapshot beside the VM whose place it takes: that one is kept until the new one answers."""
    successor = known.successor
    if successor is not None and successor.epoch >= order.epoch:
        if successor.epoch > order.epoch:
            raise StaleEpoch(f"sandbox {known.sandbox_id} is being started under epoch {successor.epoch}")
        return successor
    if successor is not None:
        raise Conflict(f"sandbox {known.sandbox_id} is being started under {successor.epoch}", code="busy")
    host.require_memory(order.memory_mib)  # until the old VM ends, both are there
    shape = machine_order(order)
    successor = Resident(
        known.sandbox_id, epoch=order.epoch, order=shape, clock=host.clock, outputs=host.outputs
    )
    known.successor = successor
    successor.starting = host.background.start(
        _succeed(host, known, successor, order), name=f"restore {known.sandbox_id}"
    )
    return successor


async def _succeed(host: Host, known: Resident, successor: Resident, order: StartVm) -> None:
    try:
        machine = await load_vm(host, successor, order)
        await host.faults.at("succeed.loaded")
    finally:
        known.successor = None
    if known.state is not VmState.RUNNING and known.state is not VmState.DEAD:
        await machine.destroy()
        raise StaleEpoch(f"sandbox {known.sandbox_id} was stopped while it was restored")
    known.close()
    host.residents.remove(known)
    host.residents.add(successor)
    serve(host, successor, machine)
    resume_work(host, successor)
    await host.faults.at("succeed.served")
    if known.machine is not None:
        await known.machine.destroy()


def serve(host: Host, resident: Resident, machine: Machine) -> None:
    resident.is_identity_certain = True
    resident.open(machine)
    host.background.start(watch(host, resident, machine), name=f"watch {resident.sandbox_id}")
    host.background.start(serve_metadata(host, resident, machine), name=f"metadata of {resident.sandbox_id}")


def resume_work(host: Host, resident: Resident) -> None:
    """Follow again what runs in a guest that was saved, or that was about to be."""
    host.background.start(follow_running(host, resident), name=f"follow execs of {resident.sandbox_id}")
