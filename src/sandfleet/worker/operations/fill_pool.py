"""Fill the warm pool: one machine at a time, behind everything that somebody waits for."""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog

from sandfleet.ports.guest import ExecOrder
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.agent_messages import WARM_EXEC_PREFIX
from sandfleet.worker.host import Host
from sandfleet.worker.operations.outfit import identity, shape

log = structlog.get_logger("sandfleet.worker")
PLACEHOLDER_NAME = "sandfleet-warm"
_RUN_ONCE_S = 10.0
_LOOK_EVERY_S = 5.0
_BACK_OFF_S_MAX = 60.0


async def keep_filled(host: Host) -> None:
    """Keep the pool at its size for as long as the worker runs."""
    failures = 0
    while not host.is_stopping:
        try:
            await trim(host)
            is_filled = not await add_one_if_lacking(host)
            failures = 0
        except Exception:  # the pool is a convenience: creates go on without it
            failures += 1
            log.exception("warm_up_failed", failures=failures)
            await host.clock.sleep(min(_BACK_OFF_S_MAX, 2.0**failures))
            continue
        if is_filled:
            await host.pool.wait_poked(timeout_s=_LOOK_EVERY_S)


async def add_one_if_lacking(host: Host) -> bool:
    """Add a machine if one is wanted and nobody waits for a cold start; say whether it did."""
    pool = host.pool
    if host.is_cordoned or host.is_stopping or host.residents.starting > 0:
        return False
    if pool.order.template not in host.templates or not pool.lacks(free_mib=free_mib(host)):
        return False
    with pool.making_one():
        machine = await _warm_up(host)
        keep(host, machine)
    return True


async def trim(host: Host) -> None:
    """Destroy ready machines that are too many for the memory left, or of an old template version."""
    info = host.templates.get(host.pool.order.template)
    if info is None:
        return
    for machine in host.pool.surplus(free_mib=free_mib(host), version=info.version):
        log.info("warm_machine_removed", machine=machine.facts.machine_id)
        await machine.destroy()


async def rekey(host: Host, machine: Machine) -> None:
    """Make a machine of nobody a new one, ready to be handed out."""
    await machine.guest.assume_identity(identity(host, PLACEHOLDER_NAME))
    await shape(host, machine)
    await _run_once(host, machine)


async def _run_once(host: Host, machine: Machine) -> None:
    """Run a command that does nothing, so that the tenant's first is not the first.

    Under emulation it is the slowest by far: all the code on its way is translated.
    """
    order = ExecOrder(exec_id=f"{WARM_EXEC_PREFIX}{host.entropy(8).hex()}", argv=("/bin/sh", "-c", "id"))
    await machine.guest.start_exec(order)
    await machine.guest.wait_exec(order.exec_id, timeout_s=_RUN_ONCE_S)


def keep(host: Host, machine: Machine) -> None:
    """Put a re-keyed machine into the pool and watch over it."""
    host.pool.add(machine)
    host.background.start(_watch(host, machine), name=f"watch {machine.facts.machine_id}")
    host.changed.set()


def free_mib(host: Host) -> int:
    """Return the memory that no resident was promised."""
    return host.limits.memory_budget_mib - host.residents.committed_mib


async def _warm_up(host: Host) -> Machine:
    async with AsyncExitStack() as undo:
        machine = await host.hypervisor.clone(host.pool.order)
        undo.push_async_callback(machine.destroy)
        await rekey(host, machine)
        undo.pop_all()
    return machine


async def _watch(host: Host, machine: Machine) -> None:
    """Remove a ready machine whose QEMU ends; a claimed one is watched by its start."""
    reason = await machine.wait_dead()
    if host.pool.discard(machine):
        log.warning("warm_machine_died", machine=machine.facts.machine_id, reason=reason)
        await machine.destroy()
        host.pool.poke()
