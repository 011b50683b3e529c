"""Ending a session some time after its last client has left (`maxRunAfterDisconnect`).

The guest remembers how long that is and whether anybody was ever attached, so a worker
that takes the sandbox over lets the time begin anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sandfleet.ports.guest import ExecStatus
from sandfleet.worker.host import Host
from sandfleet.worker.residents import Resident


@contextmanager
def client_of(host: Host, resident: Resident, status: ExecStatus) -> Iterator[None]:
    """Be one of the session's clients."""
    resident.sessions.enter(status.exec_id)
    try:
        yield
    finally:
        if resident.sessions.leave(status.exec_id) == 0:
            end_later(host, resident, status)


def end_later(host: Host, resident: Resident, status: ExecStatus) -> None:
    """End a session without clients when its time is over, unless one comes before."""
    if status.linger_s is None or not status.running or host.is_stopping:
        return
    ending = host.background.start(
        _end(host, resident, status.exec_id, linger_s=status.linger_s), name=f"linger {status.exec_id}"
    )
    resident.sessions.end_by(status.exec_id, ending)


async def _end(host: Host, resident: Resident, exec_id: str, *, linger_s: float) -> None:
    await host.clock.sleep(linger_s)
    resident.sessions.forget_ending(exec_id)
    async with resident.activity() as machine:
        await machine.guest.kill_exec(exec_id)
