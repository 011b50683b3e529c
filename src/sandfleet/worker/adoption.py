"""Adoption: learn what the host holds from before this process, and take it over.

A machine with an owner becomes its resident under the manifest's epoch, dead ones
included: they are reported until the control plane's stop removes them. A machine
without an owner is re-keyed into the pool, or destroyed. Until this is done the
worker proves nothing about absence (`Host.is_adopted`). What cannot be removed now
is nobody's and stays until the next start: it keeps nobody from being served.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from sandfleet.model.errors import SandfleetError
from sandfleet.model.move import MovePolicy
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.move_messages import UNDECIDED
from sandfleet.worker.host import Host
from sandfleet.worker.metadata_service import serve_metadata
from sandfleet.worker.moves import Arrival, Departure
from sandfleet.worker.operations.fill_pool import keep, rekey
from sandfleet.worker.operations.follow_exec import follow_running
from sandfleet.worker.operations.upload_snapshot import resume_uploads
from sandfleet.worker.operations.watch import watch
from sandfleet.worker.residents import Resident, VmState

log = structlog.get_logger("sandfleet.worker")
_BACK_OFF_S_MAX = 30.0


async def adopt(host: Host) -> None:
    """Take over every machine of the host, trying until the host can be read."""
    failures = 0
    while True:
        try:
            machines = await host.hypervisor.adopt()
            break
        except Exception:  # whatever it is: until the host is read nothing can be served
            failures += 1
            host.trouble = "the host's machines cannot be read"
            log.exception("adoption_failed", failures=failures)
            await host.clock.sleep(min(_BACK_OFF_S_MAX, 2.0**failures))
    unowned = [machine for machine in machines if machine.facts.owner is None]
    for machine in _newest_first(machines):
        await _adopt_owned(host, machine)
    await _sweep(host)
    host.is_adopted, host.trouble = True, None
    host.changed.set()
    log.info("adopted", residents=len(host.residents), unowned=len(unowned))
    await resume_uploads(host)
    for machine in unowned:
        await _adopt_unowned(host, machine)


async def _adopt_owned(host: Host, machine: Machine) -> None:
    facts = machine.facts
    owner = facts.owner or ""
    if host.residents.find(owner) is not None:
        log.warning("older_machine_removed", sandbox=owner, epoch=facts.epoch)
        await _remove(machine)
        return
    resident = Resident(owner, epoch=facts.epoch, order=facts.order, clock=host.clock, outputs=host.outputs)
    host.residents.add(resident)
    _recall_move(host, resident, machine)
    if not await machine.is_alive():
        resident.keep_dead(machine, await machine.wait_dead())
        return
    resident.restarted = facts.restart_id
    if resident.state in (VmState.MOVING, VmState.ARRIVING):
        host.background.start(watch(host, resident, machine), name=f"watch {owner}")
        return
    resident.open(machine)
    host.background.start(watch(host, resident, machine), name=f"watch {owner}")
    host.background.start(serve_metadata(host, resident, machine), name=f"metadata of {owner}")
    host.background.start(follow_running(host, resident), name=f"follow execs of {owner}")


def _recall_move(host: Host, resident: Resident, machine: Machine) -> None:
    """Keep a sandbox that is half way from or to here as it is: which side counts is not decided here."""
    facts = machine.facts
    if facts.arriving:
        resident.arrival = Arrival(facts.arriving)
        resident.expect()
        resident.take(machine)
    elif facts.departing:
        resident.departure = Departure(
            facts.departing,
            MovePolicy(),
            hold=resident.hold,
            wall_clock=lambda: host.clock.now().timestamp(),
        )
        resident.departure.settle(UNDECIDED, "the worker was started anew during the hand-over")
        resident.keep_still(machine)


async def _adopt_unowned(host: Host, machine: Machine) -> None:
    """Re-key a ready machine into the pool; one that does not fit or answer is removed."""
    try:
        if host.pool.size > 0 and machine.facts.order == host.pool.order and await machine.is_alive():
            await rekey(host, machine)
            keep(host, machine)
            return
    except SandfleetError as error:
        log.warning("warm_machine_failed", machine=machine.facts.machine_id, reason=error.message)
    await _remove(machine)


async def _remove(machine: Machine) -> None:
    try:
        await machine.destroy()
    except Exception:  # whatever it is: the others must be served
        log.exception("machine_not_removed", machine=machine.facts.machine_id)


async def _sweep(host: Host) -> None:
    try:
        for name in await host.hypervisor.sweep():
            log.warning("leftover_removed", name=name)
    except Exception:  # whatever it is: leftovers are nobody's
        log.exception("sweep_failed")


def _newest_first(machines: Sequence[Machine]) -> list[Machine]:
    """Return the owned ones so that of two for one sandbox the newer epoch comes first."""
    owned = [machine for machine in machines if machine.facts.owner is not None]
    return sorted(owned, key=lambda machine: machine.facts.epoch, reverse=True)
