"""The end of a run: the faults are over, time passes, and everything must come to rest and leave nothing.

`until_rest` waits longer than the longest deadline of the world; what has not come to rest by
then is stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from sandfleet.model.ids import FLEET_ORGANISATION, SandboxId
from sandfleet.model.sandbox import SandboxState
from sandfleet.testing.simulation.replica import Request
from sandfleet.testing.simulation.rollouts import unsettled_rollouts
from sandfleet.testing.simulation.vm import RUNNING

if TYPE_CHECKING:
    from sandfleet.testing.simulation.world import World

REST_MAX_S = 240.0
LOOK_EVERY_S = 1.0
SANDBOX = "/api/sandboxes/{id}"
_KEPT = (SandboxState.RUNNING, SandboxState.HIBERNATED)
_AT_REST = frozenset(
    {
        SandboxState.RUNNING,
        SandboxState.HIBERNATED,
        SandboxState.STOPPED,
        SandboxState.FAILED,
        SandboxState.ERROR,
    }
)


async def until_rest(world: World, what: str, missing: Callable[[], list[str]]) -> None:
    """Wait until nothing is missing, or find that it never comes, or that something else is broken."""
    for _ in range(int(REST_MAX_S / LOOK_EVERY_S)):
        if not missing() or world.findings.violations:
            return
        await asyncio.sleep(LOOK_EVERY_S)
    world.findings.found(f"stuck: {what} never comes: {'; '.join(missing()[:5])}")


def unsettled(world: World) -> list[str]:
    """Return what is still under way."""
    database = world.database
    found = [
        f"{stored.operation.kind} {stored.operation.id} of {stored.operation.sandbox_id}"
        for stored in database.running.values()
    ]
    found += [f"{row.id} is {row.state}" for row in database.sandboxes.values() if row.state not in _AT_REST]
    found += _strangers(world)
    found += world.account.unsettled()
    found += unsettled_rollouts(world)
    found += [
        f"snapshot {one} on {host.worker_id}"
        for host in world.hosts.values()
        if not world.database.is_gone(host.worker_id)  # its disk is nobody's
        for one in _leftovers(world, host.saved)
    ]
    found += [f"snapshot {one} in the object store" for one in _leftovers(world, _stored(world))]
    return found


def _stored(world: World) -> dict[str, object]:
    """Return what is stored, but for what a worker that is gone stored late: the daily sweep takes that."""
    gone = [host for host in world.hosts.values() if world.database.is_gone(host.worker_id)]
    return {
        name: artefact
        for name, artefact in world.objects.published.items()
        if not any(name in host.saved for host in gone)
    }


def _strangers(world: World) -> list[str]:
    """Return VMs that no running row owns, and rows that have no VM."""
    found = []
    for host in world.hosts.values():
        for vm in host.vms.values():
            row = world.database.sandboxes.get(vm.sandbox_id)
            is_owned = row is not None and row.worker_id == host.worker_id and row.epoch == vm.epoch
            if not is_owned:
                found.append(f"{host.worker_id} has {vm.sandbox_id} in epoch {vm.epoch}, {vm.state}")
    for row in world.database.sandboxes.values():
        if row.state is SandboxState.RUNNING and row.worker_id is not None:
            held = world.hosts[row.worker_id].vms.get(row.id)
            if held is None or held.state != RUNNING:
                found.append(f"{row.id} is running on {row.worker_id}, which has no such VM")
    return found


def _leftovers(world: World, names: dict[str, object] | object) -> list[str]:
    assert isinstance(names, dict)
    return [name for name in names if name not in world.database.snapshots]


def check_rest(world: World) -> None:
    """Look at what may only be looked at when nothing is under way."""
    database, require = world.database, world.findings.require
    for sandbox_id, held in database.reservations.items():
        row = database.sandboxes[sandbox_id]
        is_used = row.state is SandboxState.RUNNING and row.worker_id == held.worker_id
        require(is_used, f"{sandbox_id} is {row.state} and keeps a reservation on {held.worker_id}")
        reserved_mib = held.resources.memory_mib  # more than it has, after a change without an answer
        require(reserved_mib >= row.resources.memory_mib, f"{sandbox_id} has more than is reserved for it")
        vm = world.hosts[held.worker_id].vms.get(sandbox_id)
        require(vm is None or vm.memory_mib <= reserved_mib, f"{sandbox_id} reserves less than its VM has")
    require(not database.second_places, f"second places are left: {sorted(database.second_places)}")
    for row in database.sandboxes.values():
        is_held = row.state is not SandboxState.RUNNING or row.id in database.reservations
        require(is_held, f"{row.id} runs without a reservation")
    _check_known(world)


def _check_known(world: World) -> None:
    """What a client was told is so: killed stays killed, one key made one sandbox."""
    database, require = world.database, world.findings.require
    made: dict[str, list[SandboxId]] = {}
    for row in database.sandboxes.values():
        if row.organisation_id == FLEET_ORGANISATION:
            continue
        if row.state is not SandboxState.FAILED:  # a create that was refused may be asked for again
            made.setdefault(row.metadata.get("key", ""), []).append(row.id)
    for key, sandboxes in made.items():
        require(len(sandboxes) == 1, f"key {key} made {len(sandboxes)} sandboxes: {sandboxes}")
    for known in world.known:
        row = database.sandboxes[known.id]
        is_dead = row.is_terminal or not known.is_killed
        require(is_dead, f"{known.id} was killed and is {row.state}")
        if world.profile.has_rollout:  # nothing happens there that a sandbox may be lost by
            is_there = known.is_killed or row.state in _KEPT or not _has_run(world, row.id)
            require(is_there, f"{known.id} is lost: it is {row.state}, {row.error_message}")


def _has_run(world: World, sandbox_id: SandboxId) -> bool:
    """Whether it was ever there: a create that did not come to its end lost nothing."""
    log = world.database.transitions
    return any(one.event in ("booted", "woken") and one.sandbox_id == sandbox_id for one in log)


async def end_everything(world: World) -> None:
    """Kill all sandboxes and see that nothing stays: no VM, no reservation, no operation, no artefact."""
    database = world.database
    for row in list(database.sandboxes.values()):
        if not row.is_terminal:
            await world.clients[0].ask(Request("DELETE", SANDBOX, {"id": row.id}))
    for checkpoint in list(database.checkpoints.values()):
        values = {"id": checkpoint.sandbox_id, "cp": checkpoint.id}
        await world.clients[0].ask(Request("DELETE", SANDBOX + "/checkpoints/{cp}", values))
    await until_rest(world, "nothing is left", lambda: _left(world))


def _left(world: World) -> list[str]:
    database = world.database
    found = [f"a reservation of {name}" for name in database.reservations]
    found += [f"a second place of {name}" for name in database.second_places]
    found += [f"operation {name}" for name in database.running]
    found += [
        f"snapshot {one.id}, {one.state}" for one in database.snapshots.values() if one.id not in _kept(world)
    ]
    for host in world.hosts.values():
        saved = () if database.is_gone(host.worker_id) else host.saved
        found += [f"{name} on {host.worker_id}" for name in (*host.vms, *saved) if name not in _kept(world)]
    found += [f"{name} in the object store" for name in _stored(world) if name not in _kept(world)]
    return found


def _kept(world: World) -> set[str]:
    """Return what a sandbox in `error` still names: it is kept for whoever looks for what went wrong."""
    rows = world.database.sandboxes.values()
    return {row.snapshot_id for row in rows if row.state is SandboxState.ERROR and row.snapshot_id}
