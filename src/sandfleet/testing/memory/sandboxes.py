"""Sandboxes in memory (port: `ports.stores.SandboxStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sandfleet.model.checkpoint import Checkpoint, CheckpointState
from sandfleet.model.errors import Conflict, NotFound, QuotaExceeded
from sandfleet.model.ids import OrganisationId, SandboxId, WorkerId
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.sandbox import SERVED_STATES, Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot
from sandfleet.model.transition import Transition
from sandfleet.planning.repair import Presence
from sandfleet.ports.stores import SandboxFilter
from sandfleet.testing.memory.database import Duplicate, MemoryDatabase, as_json
from sandfleet.testing.memory.link import Link

_TOUCH_WORTH = timedelta(seconds=1)


class MemorySandboxStore:
    """Rows of sandboxes with their log."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def create(self, sandbox: Sandbox, operation: Operation, transition: Transition) -> bool:
        """Insert row, operation and log, unless that very sandbox is there already."""

        def work() -> bool:
            database = self._database
            known = database.sandboxes.get(sandbox.id)
            if known is not None:
                if known.organisation_id != sandbox.organisation_id:
                    raise Duplicate(f"sandbox {sandbox.id}")
                return False
            if sandbox.from_checkpoint_id is not None:
                self._require_checkpoint(sandbox)
            quotas = database.organisation(sandbox.organisation_id).quotas
            database.admit(sandbox.organisation_id, quotas, sandbox.resources)
            self._insert(sandbox, operation, transition)
            return True

        return await self._link.call(work, name="create")

    async def start_fork(
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        snapshot: Snapshot,
        created: Sequence[tuple[Sandbox, Operation, Transition]],
        is_partial: bool,
    ) -> int:
        """Begin the fork and insert the sandboxes, as many as the quotas let in."""

        def work() -> int:
            database = self._database
            quotas = database.organisation(sandbox.organisation_id).quotas
            database.require_version(sandbox)
            database.require_new(operation)
            done = 0
            try:
                for row, create, log in created:
                    database.admit(row.organisation_id, quotas, row.resources)
                    self._insert(row, create, log)
                    done += 1
            except QuotaExceeded:
                if not is_partial or done == 0:
                    self._take_back(created[:done])
                    raise
            self._begin(sandbox, operation, transition, snapshot=snapshot, checkpoint=None)
            return done

        return await self._link.call(work, name="start_fork")

    async def start_operation(  # noqa: PLR0913 -- one argument for each part of a beginning
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        term: int | None = None,
        admits: bool = False,
        snapshot: Snapshot | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Change the row and begin the operation."""

        def work() -> None:
            database = self._database
            if admits:
                quotas = database.organisation(sandbox.organisation_id).quotas
                database.admit(sandbox.organisation_id, quotas, sandbox.resources)
            database.require_term(term)
            database.require_version(sandbox)
            if checkpoint is not None:
                self._require_free_name(checkpoint)
            self._begin(sandbox, operation, transition, snapshot=snapshot, checkpoint=checkpoint)

        await self._link.call(work, name="start_operation")

    async def get(self, organisation_id: OrganisationId, sandbox_id: SandboxId) -> Sandbox:
        """Return the organisation's sandbox."""

        def work() -> Sandbox:
            found = self._database.sandboxes.get(sandbox_id)
            if found is None or found.organisation_id != organisation_id:
                raise NotFound(f"sandbox {sandbox_id} not found")
            return found

        return await self._link.call(work, repeatable=True, name="get")

    async def get_any(self, sandbox_id: SandboxId) -> Sandbox:
        """Return the sandbox for the fleet's own use."""

        def work() -> Sandbox:
            found = self._database.sandboxes.get(sandbox_id)
            if found is None:
                raise NotFound(f"sandbox {sandbox_id} not found")
            return found

        return await self._link.call(work, repeatable=True, name="get_any")

    async def list(self, organisation_id: OrganisationId, where: SandboxFilter) -> Sequence[Sandbox]:
        """Return newest first."""

        def work() -> Sequence[Sandbox]:
            rows = [
                row
                for row in self._database.sandboxes.values()
                if row.organisation_id == organisation_id
                and (where.states is None or row.state in where.states)
                and (where.alias is None or row.alias == where.alias)
                and (where.cursor is None or (row.created_at, row.id) < where.cursor)
            ]
            rows.sort(key=lambda row: (row.created_at, row.id), reverse=True)
            return rows[: where.limit]

        return await self._link.call(work, repeatable=True, name="list")

    async def save(self, sandbox: Sandbox, transition: Transition | None) -> None:
        """Compare and set."""

        def work() -> None:
            self._database.require_version(sandbox)
            self._database.write_sandbox(sandbox)
            if transition is not None:
                self._database.log(transition)

        await self._link.call(work, name="save")

    async def transitions(
        self,
        organisation_id: OrganisationId,
        sandbox_id: SandboxId,
        *,
        limit: int = 100,
        before: int | None = None,
    ) -> Sequence[Transition]:
        """Return the log of one sandbox, newest first."""

        def work() -> Sequence[Transition]:
            rows = [
                row
                for row in reversed(self._database.transitions)
                if row.organisation_id == organisation_id
                and row.sandbox_id == sandbox_id
                and (before is None or (row.id or 0) < before)
            ]
            return rows[:limit]

        return await self._link.call(work, repeatable=True, name="transitions")

    async def kill(self, sandbox: Sandbox, destroy: Operation, transition: Transition) -> None:
        """Stop, cancel and begin to destroy."""

        def work() -> None:
            database = self._database
            database.require_version(sandbox)
            database.require_new(destroy)
            for stored in database.open_operations(sandbox.id):
                stored.operation = replace(stored.operation, cancel_requested=True)
            self._begin(sandbox, destroy, transition, snapshot=None, checkpoint=None)

        await self._link.call(work, name="kill")

    async def touch(self, active_at: Mapping[SandboxId, datetime]) -> None:
        """Move `active_at` forward."""

        def work() -> None:
            rows = self._database.sandboxes
            for sandbox_id, at in active_at.items():
                row = rows.get(sandbox_id)
                if row is None or row.state not in SERVED_STATES or row.active_at is None:
                    continue
                if row.active_at < at - _TOUCH_WORTH:
                    rows[sandbox_id] = replace(row, active_at=at)

        if active_at:
            await self._link.call(work, repeatable=True, name="touch")

    async def idle_candidates(self, *, limit: int = 100) -> Sequence[Sandbox]:
        """Return those whose time has run out by this database's clock."""

        def work() -> Sequence[Sandbox]:
            now = self._database.now()
            rows = [
                (row.active_at, row)
                for row in self._database.sandboxes.values()
                if row.state is SandboxState.RUNNING
                and row.timeout_s > 0
                and row.active_at is not None
                and row.active_at + timedelta(seconds=row.timeout_s) < now
            ]
            rows.sort(key=lambda pair: pair[0])
            return [row for _, row in rows[:limit]]

        return await self._link.call(work, repeatable=True, name="idle_candidates")

    async def counts(self) -> Mapping[SandboxState, int]:
        """Return the number of sandboxes by state."""

        def work() -> Mapping[SandboxState, int]:
            counted: dict[SandboxState, int] = {}
            for row in self._database.sandboxes.values():
                counted[row.state] = counted.get(row.state, 0) + 1
            return counted

        return await self._link.call(work, repeatable=True, name="counts")

    async def presence(self, worker_id: WorkerId) -> Sequence[Presence]:
        """Return what is expected on the worker."""

        def work() -> Sequence[Presence]:
            rows = self._database.sandboxes.values()
            return [
                self._presence(row, worker_id)
                for row in rows
                if row.worker_id == worker_id or self._has_place(row, worker_id)
            ]

        return await self._link.call(work, repeatable=True, name="presence")

    async def on_worker(self, worker_id: WorkerId) -> Sequence[Sandbox]:
        """Return all that the worker has or holds room for."""
        return await self._link.call(lambda: self._on(worker_id), repeatable=True, name="on_worker")

    async def remove_old(self, *, stopped_for: timedelta, events_for: timedelta, limit: int = 1000) -> int:
        """Delete what has ended and what has been logged long ago."""

        def work() -> int:
            database = self._database
            before = database.now()
            named = {one.sandbox_id for one in database.checkpoints.values()}
            ended = [
                row.id
                for row in database.sandboxes.values()
                if row.is_terminal
                and row.changed_at < before - stopped_for
                and row.id not in database.reservations
                and row.id not in database.second_places
                and row.id not in named
                and not any(database.open_operations(row.id))
            ][:limit]
            for sandbox_id in ended:
                self._remove(sandbox_id)
            old = [row for row in database.transitions if row.at < before - events_for][:limit]
            gone = {row.id for row in old}
            database.transitions[:] = [row for row in database.transitions if row.id not in gone]
            return len(ended) + len(old)

        return await self._link.call(work, repeatable=True, name="remove_old")

    def _remove(self, sandbox_id: SandboxId) -> None:
        database = self._database
        del database.sandboxes[sandbox_id]
        for key in [key for key in database.previews if key[0] == sandbox_id]:
            del database.previews[key]
        theirs = [key for key, one in database.operations.items() if one.operation.sandbox_id == sandbox_id]
        for operation_id in theirs:
            del database.operations[operation_id]

    def _on(self, worker_id: WorkerId) -> Sequence[Sandbox]:
        reserved = self._database.reservations
        return [
            row
            for row in self._database.sandboxes.values()
            if row.worker_id == worker_id
            or ((held := reserved.get(row.id)) is not None and held.worker_id == worker_id)
        ]

    def _has_place(self, row: Sandbox, worker_id: WorkerId) -> bool:
        database = self._database
        places = (database.reservations.get(row.id), database.second_places.get(row.id))
        return any(place is not None and place.worker_id == worker_id for place in places)

    def _presence(self, row: Sandbox, worker_id: WorkerId) -> Presence:
        return Presence(
            sandbox_id=row.id,
            state=row.state,
            epoch=row.epoch,
            has_reservation=self._has_place(row, worker_id),
            # These go on whatever becomes of the machine.
            has_open_operation=any(
                one.operation.kind not in (OperationKind.UPLOAD, OperationKind.RELEASE)
                for one in self._database.open_operations(row.id)
            ),
        )

    def _require_checkpoint(self, sandbox: Sandbox) -> None:
        wanted = sandbox.from_checkpoint_id
        found = None if wanted is None else self._database.checkpoints.get(wanted)
        if found is None or found.snapshot_id != sandbox.snapshot_id:
            raise NotFound("checkpoint not found")

    def _require_free_name(self, checkpoint: Checkpoint) -> None:
        for one in self._database.checkpoints.values():
            is_same = one.sandbox_id == checkpoint.sandbox_id and one.name == checkpoint.name
            if one.id == checkpoint.id or (is_same and one.state is not CheckpointState.FAILED):
                raise Conflict(f'the sandbox has a checkpoint "{checkpoint.name}"', code="name_taken")

    def _insert(self, sandbox: Sandbox, operation: Operation, transition: Transition) -> None:
        self._database.insert_operation(operation)
        self._database.sandboxes[sandbox.id] = replace(
            sandbox, envs=dict(sandbox.envs), metadata=as_json(sandbox.metadata)
        )
        self._database.log(transition)

    def _take_back(self, created: Sequence[tuple[Sandbox, Operation, Transition]]) -> None:
        for row, create, _ in created:
            del self._database.sandboxes[row.id]
            del self._database.operations[create.id]
            self._database.running.pop(create.id, None)
            self._database.transitions.pop()

    def _begin(
        self,
        sandbox: Sandbox,
        operation: Operation,
        transition: Transition,
        *,
        snapshot: Snapshot | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        database = self._database
        database.insert_operation(operation)
        database.write_sandbox(sandbox)
        database.log(transition)
        if snapshot is not None:
            database.snapshots[snapshot.id] = snapshot
        if checkpoint is not None:
            database.checkpoints[checkpoint.id] = checkpoint
