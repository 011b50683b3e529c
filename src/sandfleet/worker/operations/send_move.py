"""Send: a sandbox leaves for another worker. Until it is decided where it goes on, both sides keep it whole.

What if this process dies
    before the hand-over     the next one calls the guest back: it runs on here, as if nothing had been
    during or after it       the next one keeps it still, `undecided`, until `stay` or `release`
Either way the repeated order gets an answer that is true: the move has failed, or it is undecided.
"""

from __future__ import annotations

import structlog

from sandfleet.model.errors import (
    BadRequest,
    Conflict,
    MoveUndecided,
    NoCapacity,
    NotFound,
    SandfleetError,
    StaleEpoch,
)
from sandfleet.model.move import Outcome
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.move_manifest import MoveManifest
from sandfleet.wire.move_messages import FAILED, READY, UNDECIDED, WAIT_S_MAX, DescribeVm, MoveState, SendMove
from sandfleet.worker.host import Host
from sandfleet.worker.moves import Departure, policy_of
from sandfleet.worker.operations.serve_again import serve_again
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")


async def describe_vm(host: Host, sandbox_id: str, order: DescribeVm) -> MoveManifest:
    """Return what the target of a move must know."""
    host.require_adopted()
    resident = host.residents.serving(sandbox_id, epoch=order.epoch)
    return await host.require_mover().describe(resident.glance())


def move_state(host: Host, sandbox_id: str) -> MoveState:
    """Return how the newest move of a sandbox stands."""
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is None or resident.departure is None:
        raise NotFound(f"sandbox {sandbox_id} does not move away from this worker")
    return resident.departure.state(sandbox_id)


async def send_move(host: Host, sandbox_id: str, order: SendMove) -> MoveState:
    """Begin the move, or join it; return when something decisive is known or the time is over."""
    host.require_adopted()
    resident = host.residents.find(sandbox_id)
    if resident is None:
        raise NotFound(f"sandbox {sandbox_id} is not on this worker")
    if resident.epoch != order.epoch:
        raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {resident.epoch}, not {order.epoch}")
    departure = resident.departure
    if departure is None or departure.move_id != order.move_id:
        departure = _begin(host, resident, order)
    elif departure.step == UNDECIDED:
        await _decide(host, resident, departure)
    if order.wait_s > 0:
        await departure.decisive(timeout_s=min(order.wait_s, WAIT_S_MAX))
    return departure.state(sandbox_id)


def _begin(host: Host, resident: Resident, order: SendMove) -> Departure:
    host.moves.refuse_given_up(order.move_id)
    if order.target_worker == host.worker_id:
        raise BadRequest("a sandbox does not move to the worker that it is on", code="same_worker")
    machine = resident.machine
    if resident.state is not VmState.RUNNING or resident.successor is not None or machine is None:
        raise Conflict(f"sandbox {resident.sandbox_id} is {resident.state.value}", code="busy")
    if resident.resizing.locked():  # its place was made for the size that it had
        raise Conflict(f"the size of sandbox {resident.sandbox_id} is being changed", code="busy")
    leaving = [one for one in host.residents if one.departure is not None and one.departure.is_open]
    if resident in leaving:
        raise Conflict(f"sandbox {resident.sandbox_id} is moving already", code="busy")
    if len(leaving) >= host.limits.moves_max:
        raise NoCapacity(f"{len(leaving)} sandboxes are leaving this worker already")
    departure = Departure(
        order.move_id,
        policy_of(order.limits),
        hold=resident.hold,
        wall_clock=lambda: host.clock.now().timestamp(),
    )
    resident.departure = departure
    departure.sending = host.background.start(
        _send(host, resident, departure, machine=machine, order=order), name=f"move {resident.sandbox_id}"
    )
    return departure


async def _send(
    host: Host, resident: Resident, departure: Departure, *, machine: Machine, order: SendMove
) -> None:
    mover = host.require_mover()
    try:
        await mover.send(machine, order.landing, move_id=order.move_id, pilot=departure)
    except MoveUndecided as error:
        # One that was not shut off runs; what is left of its move goes with `stay`.
        is_served = resident.state is VmState.RUNNING
        departure.settle(FAILED if is_served else UNDECIDED, error.message)
        raise
    except BaseException as error:
        said = error.message if isinstance(error, SandfleetError) else "the worker has stopped"
        await serve_again(host, resident, machine, after=VmState.MOVING)
        departure.settle(FAILED, said)
        raise
    departure.settle(READY)
    log.info("vm_sent", sandbox=resident.sandbox_id, epoch=resident.epoch, move=order.move_id)


async def _decide(host: Host, resident: Resident, departure: Departure) -> None:
    """Look what an undecided hand-over has come to, once for all who ask."""
    if departure.looking is None or departure.looking.done:
        departure.looking = host.background.start(
            _look(host, resident, departure), name=f"look after {resident.sandbox_id}"
        )
    await departure.looking.result()


async def _look(host: Host, resident: Resident, departure: Departure) -> None:
    machine = resident.machine
    if resident.state is VmState.MOVING and machine is not None and not await machine.is_alive():
        resident.die(await machine.wait_dead())
    if resident.state is VmState.DEAD:  # whoever has seen it first
        departure.settle(FAILED, "QEMU ended during the hand-over")
    if machine is None or resident.state is not VmState.MOVING:
        return
    outcome = await host.require_mover().outcome(machine)
    if outcome is Outcome.HANDED_OVER:
        departure.settle(READY)
    elif outcome is Outcome.STAYED:
        await serve_again(host, resident, machine, after=VmState.MOVING)
        departure.settle(FAILED, "the hand-over failed")
