"""Serve again a sandbox that was shut off to be saved or moved, and stays: its clock is put right first."""

from __future__ import annotations

import asyncio

import structlog

from sandfleet.model.errors import SandfleetError
from sandfleet.ports.hypervisor import Machine
from sandfleet.worker.host import Host
from sandfleet.worker.operations.succeed import resume_work
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")
CLOCK_TIMEOUT_S = 5.0


async def serve_again(host: Host, resident: Resident, machine: Machine, *, after: VmState) -> None:
    """Open its gate and follow its work, unless it is not in that state any more, or has died in it."""
    if resident.state is not after:
        return
    if not await machine.is_alive():
        resident.die(await machine.wait_dead())
        host.changed.set()
        return
    try:
        async with asyncio.timeout(CLOCK_TIMEOUT_S):
            await machine.guest.set_clock(host.clock.now().timestamp())
    except (SandfleetError, TimeoutError) as error:
        log.warning("clock_not_set", sandbox=resident.sandbox_id, reason=str(error))
    resident.reopen()
    resume_work(host, resident)
    host.changed.set()
