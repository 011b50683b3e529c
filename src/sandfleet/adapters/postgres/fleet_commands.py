"""How each command of a fleet planner is recorded; the caller holds the term and the lock of placements.

Each returns None, or says why what has happened meanwhile forbids it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres.drains import begin_drain, end_drain
from sandfleet.adapters.postgres.fleet_log import tell
from sandfleet.adapters.postgres.forgetting import forget_worker
from sandfleet.adapters.postgres.tables import drains, launches, workers
from sandfleet.model.drain import DrainOwner
from sandfleet.model.errors import Conflict, NotFound
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState
from sandfleet.model.machine import Machine
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import (
    AbandonLaunch,
    DrainWorker,
    FleetCommand,
    KeepWorker,
    LaunchMachine,
    RemoveWorker,
)
from sandfleet.ports.fleet_store import AFTER_ALL, MACHINES, NO_LAUNCH, launch_news

# Named again it is the same machine: the round that named it was recorded already.
_LAUNCH = (
    insert(launches)
    .values(
        id=bindparam("launch"),
        size=bindparam("its_size"),
        version=bindparam("its_version"),
        reason=bindparam("its_reason"),
        state=LaunchState.PENDING.value,
        requested_at=func.now(),
        said="",
    )
    .on_conflict_do_nothing()
    .returning(launches)
)
# A heartbeat of its machine waits for this lock, and this for the heartbeat: what is looked at
# afterwards, in a statement of its own, is there for good.
_HELD = select(launches).where(launches.c.id == bindparam("launch")).with_for_update()
_GIVE_UP = (
    update(launches)
    .where(launches.c.id == bindparam("launch"))
    .values(
        state=LaunchState.FAILED.value,
        failure=bindparam("new_failure"),
        said=bindparam("new_said"),
        ended_at=func.now(),
        ending_since=func.now(),
    )
)
_COME_AFTER_ALL = (
    update(launches)
    .where(launches.c.id == bindparam("launch"))
    .values(
        state=LaunchState.JOINED.value,
        failure=None,
        said="",
        ended_at=func.now(),
        ending_since=None,
        gone_at=None,
        worker_id=bindparam("new_worker"),
    )
)
_NAMED = select(launches).where(
    or_(launches.c.id == bindparam("launch"), launches.c.machine_id == bindparam("machine"))
)
_NEW_ORPHAN = insert(launches).values(
    id=bindparam("launch"),
    size=bindparam("its_size"),
    version="",
    reason=NO_LAUNCH,
    state=LaunchState.FAILED.value,
    requested_at=func.now(),
    said=NO_LAUNCH,
    machine_id=bindparam("its_machine"),
    ending_since=func.now(),
)
_ORPHAN = _NEW_ORPHAN.on_conflict_do_update(
    index_elements=[launches.c.id],
    set_={
        "machine_id": _NEW_ORPHAN.excluded.machine_id,
        "ending_since": func.coalesce(launches.c.ending_since, func.now()),
        "gone_at": None,
    },
).returning(launches)
_WORKERS_OF = (
    select(workers.c.id)
    .where(
        workers.c.machine_id.in_(bindparam("machines", expanding=True)),
        workers.c.state != WorkerState.GONE.value,
    )
    .order_by(workers.c.id)
)
# Locked: a heartbeat that comes now waits, and finds its worker gone.
_STATE_OF = select(workers.c.state).where(workers.c.id == bindparam("worker")).with_for_update()
_OWNER = select(drains.c.owner).where(drains.c.worker_id == bindparam("worker"))
_LAUNCH_OF = select(launches.c.id).where(
    launches.c.worker_id == bindparam("worker"), launches.c.gone_at.is_(None)
)


async def record_command(connection: AsyncConnection, command: FleetCommand, *, by: DrainOwner) -> str | None:
    """Record it, or say why not."""
    try:
        match command:
            case LaunchMachine():
                await _launch(connection, command, by=by)
                return None
            case AbandonLaunch():
                why = LaunchFailure.BROKEN
                said = command.reason
                return await give_up(connection, command.launch_id, why, said=said, actor=by.value)
            case DrainWorker():
                return await _drain(connection, command)
            case KeepWorker():
                return await _keep(connection, command)
            case RemoveWorker():
                return await _remove(connection, command, by=by)
    except (NotFound, Conflict) as error:
        return error.message


async def _launch(connection: AsyncConnection, command: LaunchMachine, *, by: DrainOwner) -> None:
    named = {"its_size": command.size, "its_version": command.version, "its_reason": command.reason}
    row = (await connection.execute(_LAUNCH, {"launch": command.launch_id, **named})).first()
    if row is not None:
        news = launch_news("launch_requested", launch_from(row), command.reason)
        await tell(connection, news, actor=by.value)


async def _drain(connection: AsyncConnection, command: DrainWorker) -> str | None:
    actor = command.owner.value
    owner = await begin_drain(
        connection, command.worker_id, owner=command.owner, actor=actor, terms=command.terms
    )
    return None if owner is command.owner else f"{command.worker_id} is drained by {owner} already"


async def _keep(connection: AsyncConnection, command: KeepWorker) -> str | None:
    actor, owner = command.owner.value, command.owner
    is_ended = await end_drain(connection, command.worker_id, actor=actor, reason=command.reason, owner=owner)
    return None if is_ended else f"{command.worker_id} is not drained by {command.owner}"


async def _remove(connection: AsyncConnection, command: RemoveWorker, *, by: DrainOwner) -> str | None:
    worker_id: WorkerId = command.worker_id
    owner = (await connection.execute(_OWNER, {"worker": worker_id})).scalar_one_or_none()
    if owner != by.value:
        return f"{worker_id} is not drained by {by}"
    if (await connection.execute(_LAUNCH_OF, {"worker": worker_id})).first() is None:
        return f"the machine of {worker_id} was not launched by the fleet"
    await forget_worker(connection, worker_id, is_lost=False, actor=by.value, because=command.reason)
    return None


async def give_up(
    connection: AsyncConnection, launch_id: LaunchId, why: LaunchFailure, *, said: str, actor: str
) -> str | None:
    """Give a launch up, or say why not: it has ended, or a worker of its machine has reported."""
    row = (await connection.execute(_HELD, {"launch": launch_id})).first()
    if row is None or row.state != LaunchState.PENDING.value:
        return f"{launch_id} is not pending any more"
    there = (await connection.execute(_WORKERS_OF, {"machines": _names(row)})).first()
    if there is not None:
        return f"{there.id} has reported from its machine"
    changed = {"launch": launch_id, "new_failure": why.value, "new_said": said}
    await connection.execute(_GIVE_UP, changed)
    await tell(connection, launch_news("launch_failed", launch_from(row), f"{why}: {said}"), actor=actor)
    return None


async def take_off(connection: AsyncConnection, launch_id: LaunchId) -> bool:
    """Forget the workers of a machine that is to end; false if it is not to, or one is not empty."""
    row = (await connection.execute(_HELD, {"launch": launch_id})).first()
    if row is None or row.ending_since is None:
        return False
    for worker in (await connection.execute(_WORKERS_OF, {"machines": _names(row)})).all():
        try:
            await forget_worker(connection, WorkerId(worker.id), is_lost=False, actor="capacity")
        except Conflict:
            await connection.execute(_COME_AFTER_ALL, {"launch": launch_id, "new_worker": worker.id})
            news = launch_news("launch_joined", launch_from(row), AFTER_ALL, worker_id=WorkerId(worker.id))
            await tell(connection, news, actor=MACHINES)
            return False
    return True


async def lose(connection: AsyncConnection, worker_id: WorkerId, *, because: str) -> bool:
    """Forget a worker as lost; false if it is not unreachable any more."""
    state = (await connection.execute(_STATE_OF, {"worker": worker_id})).scalar_one_or_none()
    if state != WorkerState.UNREACHABLE.value:
        return False
    await forget_worker(connection, worker_id, is_lost=True, actor="capacity", because=because)
    return True


def _names(launch: Row[Any]) -> list[str]:
    """What a worker may call its machine: as the pool does, or as the launch."""
    return [launch.id] if launch.machine_id is None else [launch.id, launch.machine_id]


async def end_orphan(connection: AsyncConnection, machine: Machine, *, pool: str) -> bool:
    """Have an ending launch for it: its own if that has no other machine, else one of its name."""
    known = [launch_from(row) for row in await connection.execute(_NAMED, _named(machine))]
    if any(launch.owns(machine.id, machine.launch_id) for launch in known):
        return False
    mine = next((one.id for one in known if one.machine_id in (None, machine.id)), f"orphan-{machine.id}")
    values = {"launch": mine, "its_machine": machine.id, "its_size": f"{pool}/{machine.size}"}
    row = (await connection.execute(_ORPHAN, values)).one()
    await tell(connection, launch_news("orphan_ended", launch_from(row), NO_LAUNCH), actor=MACHINES)
    return True


def _named(machine: Machine) -> dict[str, str]:
    return {"launch": machine.launch_id or "", "machine": machine.id}


def launch_from(row: Row[Any]) -> Launch:
    """Return the launch of a row."""
    return Launch(
        id=LaunchId(row.id),
        size=row.size,
        version=row.version,
        requested_at=row.requested_at,
        state=LaunchState(row.state),
        ended_at=row.ended_at,
        failure=None if row.failure is None else LaunchFailure(row.failure),
        reason=row.reason,
        said=row.said,
        machine_id=row.machine_id,
        worker_id=None if row.worker_id is None else WorkerId(row.worker_id),
        ending_since=row.ending_since,
        gone_at=row.gone_at,
    )
