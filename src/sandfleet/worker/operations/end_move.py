"""The source's end of a move, once it is decided: the sandbox goes on here, or nothing of it is left here."""

from __future__ import annotations

import structlog

from sandfleet.model.errors import Conflict, NotFound, StaleEpoch
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.move_messages import READY, STAYED, UNDECIDED, EndMove
from sandfleet.wire.worker_messages import VmStatus, VmStopped
from sandfleet.worker.host import Host
from sandfleet.worker.moves import Departure
from sandfleet.worker.operations.serve_again import serve_again
from sandfleet.worker.operations.stop import end
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")


async def stay(host: Host, sandbox_id: str, order: EndMove) -> VmStatus:
    """Have the sandbox run here, whatever its move has come to. The target must not run it, nor ever will.

    Whether anything of the move is known here or not: the order to send may come after this one.
    """
    host.require_adopted()
    host.moves.give_up(order.move_id)
    known = host.residents.find(sandbox_id)
    if known is not None and 0 < order.under == known.epoch and known.state is VmState.RUNNING:
        return known.status()  # it goes on here already, under its new epoch
    resident, departure = _moving(host, sandbox_id, order)
    if departure.ending is None or departure.ending.done:
        departure.ending = host.background.start(
            _stay(host, resident, departure, under=order.under), name=f"call back {sandbox_id}"
        )
    await departure.ending.result()
    return resident.status()


async def _stay(host: Host, resident: Resident, departure: Departure, *, under: int) -> None:
    if departure.sending is not None and not departure.sending.done:
        departure.sending.cancel()
        await departure.sending.settled()
    if departure.looking is not None:  # whatever it finds: it was told to stay
        await departure.looking.settled()
    machine = resident.machine
    if machine is None or not (resident.state is VmState.MOVING or _has_left_marks(resident, machine)):
        return
    if await machine.is_alive():
        if under > resident.epoch:  # first: what runs again here is known by its newest epoch
            await machine.assign(resident.sandbox_id, epoch=under)
            resident.epoch = under
        await host.require_mover().stay(machine)
    await serve_again(host, resident, machine, after=VmState.MOVING)
    departure.settle(STAYED)
    log.info("vm_stays", sandbox=resident.sandbox_id, epoch=resident.epoch, move=departure.move_id)


def _has_left_marks(resident: Resident, machine: Machine) -> bool:
    """Whether a sandbox that was never shut off could not be freed of its move."""
    return resident.state is VmState.RUNNING and bool(machine.facts.departing)


async def release(host: Host, sandbox_id: str, order: EndMove) -> VmStopped:
    """Return when nothing of the sandbox is left here. It runs elsewhere, under a newer epoch."""
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is None or resident.epoch > order.epoch:
        host.residents.bury(sandbox_id, epoch=order.epoch)
        return VmStopped(sandbox_id=sandbox_id, existed=False)
    resident, departure = _moving(host, sandbox_id, order)
    is_over = resident.state is VmState.DEAD or departure.step in (READY, UNDECIDED)
    if resident.state is VmState.RUNNING or not is_over:
        raise Conflict(f"sandbox {sandbox_id} has not been handed over", code="busy")
    machine = resident.machine
    if machine is not None and resident.state is VmState.MOVING and await machine.is_alive():
        await host.require_mover().sent(machine)
    await end(host, resident)
    return VmStopped(sandbox_id=sandbox_id, existed=True)


def _moving(host: Host, sandbox_id: str, order: EndMove) -> tuple[Resident, Departure]:
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is None:
        raise NotFound(f"sandbox {sandbox_id} is not on this worker")
    if resident.epoch not in (order.epoch, order.under):
        raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {resident.epoch}, not {order.epoch}")
    departure = resident.departure
    if departure is None or departure.move_id != order.move_id:
        raise NotFound(f"sandbox {sandbox_id} does not leave by move {order.move_id}", code="no_such_move")
    return resident, departure
