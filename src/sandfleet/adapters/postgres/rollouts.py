"""Roll-outs, versions and proofs in PostgreSQL (port: `ports.rollout_store.RolloutStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Interval, Row, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sandfleet.adapters.postgres import statements
from sandfleet.adapters.postgres.database import Database
from sandfleet.adapters.postgres.fleet_log import tell
from sandfleet.adapters.postgres.placement import PLACEMENT_LOCKED
from sandfleet.adapters.postgres.rollout_tables import rollouts, worker_proofs, worker_versions
from sandfleet.adapters.postgres.tables import operations, workers
from sandfleet.adapters.postgres.terms import require_term
from sandfleet.model.errors import Conflict, NotFound, StaleVersion
from sandfleet.model.ids import FLEET_ORGANISATION, SandboxId, WorkerId
from sandfleet.model.operation import OperationKind, OperationState
from sandfleet.model.worker import WorkerState
from sandfleet.planning.fleet import Surge
from sandfleet.planning.rollout_health import Wellness
from sandfleet.planning.rollout_state import Rollout, RolloutStage, begin_rollout, cancel_rollout
from sandfleet.ports.rollout_store import (
    ROLLOUT_OVER,
    ROLLOUTS_SHOWN,
    VERSION_RUNS,
    Proof,
    RolloutStep,
    StoredRollout,
    Version,
    first_steps,
    rollout_news,
    same_rollout,
)

_HOLD_TERM = select(statements.guard(term=True))
_NEWEST = select(rollouts).order_by(rollouts.c.number.desc())
_CURRENT = _NEWEST.limit(1)
_HELD = _CURRENT.with_for_update()
_LIST = _NEWEST.limit(ROLLOUTS_SHOWN)
_OF = rollouts.c.number == bindparam("rollout")
_WRITE = (
    update(rollouts)
    .where(_OF)
    .values(
        {name: bindparam(f"new_{name}", type_=rollouts.c[name].type) for name in ("stage", "value", "surge")}
        | {name: bindparam(f"new_{name}", type_=rollouts.c[name].type) for name in ("said", "steps")}
        | {"revision": rollouts.c.revision + 1}
    )
)
_BEGIN = (
    rollouts.insert()
    .values({name: bindparam(name) for name in ("version", "stage", "value", "actor", "surge", "steps")})
    .values(revision=1, said="")
    .returning(rollouts)
)
_VERSION = select(worker_versions).where(worker_versions.c.name == bindparam("version"))
_REGISTER = (
    insert(worker_versions)
    .values(
        name=bindparam("version"),
        registered_at=func.now(),
        registered_by=bindparam("registrar"),
        said="",
    )
    .on_conflict_do_nothing()
)
_OF_VERSION = worker_versions.c.name == bindparam("of_version")
_PASSED = update(worker_versions).where(_OF_VERSION).values(tested_at=func.now(), refused_at=None, said="")
_REFUSED = (
    update(worker_versions)
    .where(_OF_VERSION)
    .values(tested_at=None, refused_at=func.now(), said=bindparam("new_said"))
)
_UNCORDON = (
    update(workers)
    .where(workers.c.worker_version == bindparam("of_version"), workers.c.cordoned)
    .values(cordoned=False, version=workers.c.version + 1)
)
_OPEN_STAGES = (RolloutStage.CANARY, RolloutStage.FLEET)
_PROOFS = (
    select(worker_proofs)
    .join(
        workers,
        and_(workers.c.id == worker_proofs.c.worker_id, workers.c.worker_version == worker_proofs.c.version),
    )
    .where(workers.c.state != WorkerState.GONE.value)
    .order_by(worker_proofs.c.worker_id)
)
_NEW_PROOF = insert(worker_proofs)
_SAVE_PROOF = _NEW_PROOF.on_conflict_do_update(
    index_elements=[worker_proofs.c.worker_id],
    set_={
        column.name: _NEW_PROOF.excluded[column.name] for column in worker_proofs.c if not column.primary_key
    },
)
_WORKER = operations.c.progress["worker_id"].astext
_FAILED = operations.c.state == OperationState.FAILED.value
_WELLNESS = (
    select(
        _WORKER.label("worker"), func.count().label("attempts"), func.count().filter(_FAILED).label("failed")
    )
    .where(
        operations.c.finished_at > func.now() - bindparam("since", type_=Interval()),
        operations.c.kind.in_([OperationKind.CREATE.value, OperationKind.WAKE.value]),
        operations.c.organisation_id != FLEET_ORGANISATION,
        or_(_FAILED, operations.c.state == OperationState.SUCCEEDED.value),
        _WORKER.in_(bindparam("those", expanding=True)),
    )
    .group_by(_WORKER)
)


class PostgresRolloutStore:
    """What is rolled out, and how its workers fare."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def current(self) -> StoredRollout | None:
        """Return the newest."""
        found = await self._database.statement(
            lambda connection: connection.execute(_CURRENT), repeatable=True
        )
        row = found.first()
        return None if row is None else rollout_from(row)

    async def list(self) -> Sequence[StoredRollout]:
        """Return the newest, newest first."""
        found = await self._database.statement(lambda connection: connection.execute(_LIST), repeatable=True)
        return [rollout_from(row) for row in found]

    async def begin(self, version: str, previous: str, *, actor: str, at: datetime) -> StoredRollout:
        """Begin, under the lock of placements: a worker of it that reports from now on takes nothing."""

        async def work(connection: AsyncConnection) -> StoredRollout:
            await connection.execute(PLACEMENT_LOCKED)
            row = (await connection.execute(_HELD)).first()
            before = None if row is None else rollout_from(row)
            if before is not None and before.rollout.is_under_way:
                return same_rollout(before, version)
            await connection.execute(_REGISTER, {"version": version, "registrar": actor})
            known = _version_from((await connection.execute(_VERSION, {"version": version})).one())
            begun = begin_rollout(version, previous, is_boot_tested=known.tested_at is not None, now=at)
            if isinstance(begun, str):
                raise Conflict(begun, code=VERSION_RUNS)
            written = {
                "version": version,
                "stage": begun.stage.value,
                "value": begun.to_json(),
                "actor": actor,
                "surge": asdict(Surge()),
                "steps": [step.to_json() for step in first_steps(begun, actor=actor)],
            }
            after = rollout_from((await connection.execute(_BEGIN, written)).one())
            await tell(connection, rollout_news(after), actor=actor, after=begun.stage.value)
            return after

        return await self._database.transact(work, repeatable=True)

    async def cancel(self, number: int, *, actor: str, at: datetime) -> StoredRollout:
        """Turn it round."""

        async def work(connection: AsyncConnection) -> StoredRollout:
            await connection.execute(PLACEMENT_LOCKED)
            row = (await connection.execute(_HELD)).first()
            if row is None or number > row.number or number < 1:
                raise NotFound(f"roll-out {number} not found")
            before = rollout_from(row)
            if number < before.number:
                raise Conflict(f"roll-out {number} has ended", code=ROLLOUT_OVER)
            after = cancel_rollout(before.rollout, by=actor, now=at)
            if isinstance(after, str):
                raise Conflict(after, code=ROLLOUT_OVER)
            if after != before.rollout:
                await record_rollout(connection, before.after(after, actor=actor), actor=actor)
            return rollout_from((await connection.execute(_CURRENT)).one())

        return await self._database.transact(work, repeatable=True)

    async def version(self, name: str) -> Version | None:
        """Return what is known of it."""
        found = await self._database.statement(
            lambda connection: connection.execute(_VERSION, {"version": name}), repeatable=True
        )
        row = found.first()
        return None if row is None else _version_from(row)

    async def proofs(self) -> Mapping[WorkerId, Proof]:
        """Return those of the versions that run."""
        found = await self._database.statement(
            lambda connection: connection.execute(_PROOFS), repeatable=True
        )
        return {WorkerId(row.worker_id): _proof_from(row) for row in found}

    async def save_proof(self, proof: Proof, *, term: int) -> None:
        """Write it down in the leader's term."""

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(_HOLD_TERM, {"term": term})).first() is None:
                await require_term(connection, term)
            await connection.execute(_SAVE_PROOF, asdict(proof))

        await self._database.transact(work, repeatable=True)

    async def wellness(self, workers: Sequence[WorkerId], *, since: timedelta) -> Mapping[WorkerId, Wellness]:
        """Count what has ended since."""
        parameters = {"those": list(workers), "since": since}
        found = await self._database.statement(
            lambda connection: connection.execute(_WELLNESS, parameters), repeatable=True
        )
        return {
            WorkerId(row.worker): Wellness(is_proven=False, attempts=row.attempts, failed=row.failed)
            for row in found
        }


async def record_rollout(connection: AsyncConnection, after: StoredRollout, *, actor: str) -> None:
    """Write the next state with what it means; StaleVersion. The caller holds the lock of placements."""
    row = (await connection.execute(_HELD)).first()
    before = None if row is None else rollout_from(row)
    if before is None or before.number != after.number or before.revision != after.revision:
        if before is not None and before == replace(after, revision=after.revision + 1):
            return  # the answer to this very write was lost
        raise StaleVersion("the roll-out was changed meanwhile")
    written = {
        "new_stage": after.rollout.stage.value,
        "new_value": after.rollout.to_json(),
        "new_surge": asdict(after.surge),
        "new_said": after.said,
        "new_steps": [step.to_json() for step in after.steps],
    }
    await connection.execute(_WRITE, {"rollout": after.number, **written})
    rollout, was = after.rollout, before.rollout.stage
    of_version = {"of_version": rollout.version}
    if rollout.stage is not was:
        await tell(connection, rollout_news(after), actor=actor, before=was.value, after=rollout.stage.value)
        if was is RolloutStage.BOOT_TEST and rollout.stage is RolloutStage.CANARY:
            await connection.execute(_PASSED, of_version)
        if rollout.stage is RolloutStage.TURNING_BACK and was is not RolloutStage.TURNED_BACK:
            await connection.execute(_REFUSED, {**of_version, "new_said": rollout.reason})
    if rollout.stage in _OPEN_STAGES:
        # Not only once: a worker may have reported while its version passed.
        await connection.execute(_UNCORDON, of_version)


def rollout_from(row: Row[Any]) -> StoredRollout:
    """Return the roll-out of a row."""
    return StoredRollout(
        number=row.number,
        rollout=Rollout.from_json(row.value),
        actor=row.actor,
        revision=row.revision,
        surge=Surge(**row.surge),
        said=row.said,
        steps=tuple(RolloutStep.from_json(step) for step in row.steps),
    )


def _version_from(row: Row[Any]) -> Version:
    return Version(
        name=row.name,
        registered_at=row.registered_at,
        registered_by=row.registered_by,
        tested_at=row.tested_at,
        refused_at=row.refused_at,
        said=row.said,
    )


def _proof_from(row: Row[Any]) -> Proof:
    return Proof(
        worker_id=WorkerId(row.worker_id),
        version=row.version,
        attempts=row.attempts,
        failed=row.failed,
        sandbox_id=None if row.sandbox_id is None else SandboxId(row.sandbox_id),
        begun_at=row.begun_at,
        proven_at=row.proven_at,
        said=row.said,
    )
