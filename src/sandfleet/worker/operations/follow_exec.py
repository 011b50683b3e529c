"""Follow an exec: read along until it ends, and hold the sandbox's activity meanwhile."""

from __future__ import annotations

import structlog

from sandfleet.model.errors import GuestUnresponsive
from sandfleet.ports.guest import ExecOrder, ExecStatus, Guest
from sandfleet.worker.background import Background
from sandfleet.worker.executions import Execution
from sandfleet.worker.host import Host
from sandfleet.worker.operations.linger import end_later
from sandfleet.worker.residents import Resident

log = structlog.get_logger("sandfleet.worker")
_BACK_OFF_S_MAX = 15.0


async def start_followed(
    background: Background, resident: Resident, guest: Guest, order: ExecOrder
) -> Execution:
    """Start the exec, or join the one that has its id already: nothing runs twice."""
    known = resident.executions.find(order.exec_id)
    if known is not None:
        return known
    return follow(background, resident, guest, await guest.start_exec(order))


def follow(background: Background, resident: Resident, guest: Guest, status: ExecStatus) -> Execution:
    """Follow the exec from the worker's own context, once."""
    known = resident.executions.find(status.exec_id)
    if known is not None:
        return known
    execution = Execution(guest, status, budget=resident.executions.budget)
    resident.executions.hold(status.exec_id, execution)
    execution.following = background.start(_follow(resident, execution), name=f"exec {status.exec_id}")
    return execution


async def follow_running(host: Host, resident: Resident) -> None:
    """Take over what runs in a sandbox that came from elsewhere: another process, or another worker.

    A command counts as activity until its end. A session does not: its time without
    clients begins. A guest that does not answer is asked again for as long as it runs:
    what goes on in it unseen would end it for being idle.
    """
    failures = 0
    while True:
        try:
            await _follow_all(host, resident)
        except GuestUnresponsive:
            failures += 1
            log.warning("execs_not_known", sandbox=resident.sandbox_id, failures=failures)
            await host.clock.sleep(min(_BACK_OFF_S_MAX, 0.5 * 2.0**failures))
        else:
            return


async def _follow_all(host: Host, resident: Resident) -> None:
    async with resident.activity() as machine:
        for status in await machine.guest.list_execs():
            if not status.running:
                continue
            if not status.is_session:
                follow(host.background, resident, machine.guest, status)
            elif status.was_attached and not resident.sessions.count(status.exec_id):
                end_later(host, resident, status)


async def _follow(resident: Resident, execution: Execution) -> None:
    try:
        async with resident.activity():
            await execution.follow()
    finally:
        resident.executions.release(execution.status.exec_id)
