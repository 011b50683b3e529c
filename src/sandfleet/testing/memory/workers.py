"""Workers in memory (port: `ports.stores.WorkerStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from sandfleet.model.errors import Conflict, NotFound
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.resources import NOTHING
from sandfleet.model.snapshot import SnapshotState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.fencing import Ownership
from sandfleet.ports.worker_store import EMPTY, NO_HEARTBEAT, SAID_TO_BE_LOST, Registration
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link
from sandfleet.testing.memory.rollouts import is_tested

_DECIDED = ("cordoned", "draining", "drain_reason", "gone_because")
"""What the fleet decides of a worker; what the worker says of itself leaves it as it is."""

_BEFORE = {
    WorkerState.SILENT: (WorkerState.READY,),
    WorkerState.UNREACHABLE: (WorkerState.READY, WorkerState.SILENT),
}


class MemoryWorkerStore:
    """What is known of each host."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def register(self, worker: Worker) -> Registration:
        """Write what the worker says; a late heartbeat changes nothing."""

        def work() -> Registration:
            database = self._database
            before = database.workers.get(worker.id)
            if before is None or _is_news(before, worker):
                self._write(before, worker)
            return Registration(
                worker=database.read_worker(database.workers[worker.id]),
                term=database.term,
                quarantined=list(database.quarantined.get(worker.id, ())),
            )

        return await self._link.call(work, repeatable=True, name="register")

    async def get(self, worker_id: WorkerId) -> Worker:
        """Return it."""

        def work() -> Worker:
            found = self._database.workers.get(worker_id)
            if found is None:
                raise NotFound(f"worker {worker_id} not found")
            return self._database.read_worker(found)

        return await self._link.call(work, repeatable=True, name="get_worker")

    async def list(self) -> Sequence[Worker]:
        """Return all."""

        def work() -> Sequence[Worker]:
            workers = self._database.workers
            return [self._database.read_worker(workers[name]) for name in sorted(workers)]

        return await self._link.call(work, repeatable=True, name="list_workers")

    async def owners(self, sandbox_ids: Sequence[SandboxId]) -> Mapping[SandboxId, Ownership]:
        """Return the owners of those that have a row."""

        def work() -> Mapping[SandboxId, Ownership]:
            found = (self._database.sandboxes.get(sandbox_id) for sandbox_id in sandbox_ids)
            return {
                row.id: Ownership(row.epoch, row.worker_id, row.is_terminal)
                for row in found
                if row is not None
            }

        return await self._link.call(work, repeatable=True, name="owners")

    async def mark_absent(self, state: WorkerState, *, silent_for: timedelta, term: int) -> Sequence[Worker]:
        """Move the silent ones."""

        def work() -> Sequence[Worker]:
            database = self._database
            database.require_term(term)
            until = database.now() - silent_for
            silent = [
                worker
                for worker in database.workers.values()
                if worker.state in _BEFORE[state]
                and worker.last_seen_at is not None
                and worker.last_seen_at < until
            ]
            for worker in silent:
                changed = replace(worker, state=state, version=worker.version + 1)
                database.workers[worker.id] = changed
                news = FleetNews(state.value, NO_HEARTBEAT, worker.id)
                database.tell(news, actor="liveness", before=worker.state, after=state)
            return [database.workers[worker.id] for worker in silent]

        return await self._link.call(work, repeatable=True, name="mark_absent")

    async def forget(self, worker_id: WorkerId, *, is_lost: bool, actor: str) -> Worker:
        """Move it to `gone` if nothing depends on it, or on somebody's word."""

        def work() -> Worker:
            forget_worker(self._database, worker_id, is_lost=is_lost, actor=actor)
            return self._database.read_worker(self._database.workers[worker_id])

        return await self._link.call(work, repeatable=True, name="forget_worker")

    async def set_quarantined(
        self, worker_id: WorkerId, sandbox_ids: Sequence[SandboxId], *, term: int
    ) -> None:
        """Replace the list."""

        def work() -> None:
            self._database.require_term(term)
            if worker_id in self._database.workers:
                self._database.quarantined[worker_id] = list(sandbox_ids)

        await self._link.call(work, repeatable=True, name="set_quarantined")

    def _write(self, before: Worker | None, said: Worker) -> None:
        database = self._database
        after = replace(said, committed=NOTHING, last_seen_at=database.now())
        is_ending = any(
            said.machine_id in launch.machine_names and launch.ending_since is not None
            for launch in database.launches.values()
        )
        if is_ending and before is None:
            said = replace(said, state=WorkerState.GONE)
            after = replace(after, state=WorkerState.GONE)
        if before is not None:
            state = WorkerState.GONE if before.state is WorkerState.GONE else said.state
            after = replace(
                after,
                state=state,
                version=before.version + (state is not before.state),
                **{name: getattr(before, name) for name in _DECIDED},
            )
        elif is_tested(database, said.worker_version):
            after = replace(after, cordoned=True)
        database.workers[said.id] = after
        if before is None or before.state is not after.state:
            news = FleetNews("registered" if before is None else "seen", "heartbeat", said.id)
            was = None if before is None else before.state
            database.tell(news, actor=said.id, before=was, after=after.state)


def forget_worker(
    database: MemoryDatabase, worker_id: WorkerId, *, is_lost: bool, actor: str, because: str | None = None
) -> None:
    """Move it to `gone` if nothing depends on it, or on somebody's word; NotFound, Conflict."""
    before = database.workers.get(worker_id)
    if before is None:
        raise NotFound(f"worker {worker_id} not found")
    if before.state is not WorkerState.GONE:
        _require_forgettable(database, before, is_lost=is_lost)
        because = because or (SAID_TO_BE_LOST if is_lost else EMPTY)
        after = replace(before, state=WorkerState.GONE, version=before.version + 1, gone_because=because)
        database.workers[worker_id] = after
        news = FleetNews("forgotten", because, worker_id)
        database.tell(news, actor=actor, before=before.state, after=after.state)
    for launch in database.launches.values():
        if launch.worker_id == worker_id and launch.gone_at is None and launch.ending_since is None:
            database.launches[launch.id] = replace(launch, ending_since=database.now())


def _require_forgettable(database: MemoryDatabase, worker: Worker, *, is_lost: bool) -> None:
    if is_lost:
        if worker.state is WorkerState.READY:
            raise Conflict(f"worker {worker.id} speaks: it is not lost", code="worker_alive")
        return
    depends = (
        any(one.worker_id == worker.id and not one.is_terminal for one in database.sandboxes.values()),
        any(one.worker_id == worker.id for one in database.reservations.values()),
        any(one.worker_id == worker.id for one in database.second_places.values()),
        any(
            one.worker_id == worker.id and one.state in (SnapshotState.SAVING, SnapshotState.LOCAL)
            for one in database.snapshots.values()
        ),
    )
    if any(depends):
        raise Conflict(f"worker {worker.id} is not empty", code="worker_not_empty")


def _is_news(before: Worker, said: Worker) -> bool:
    return before.instance_id != said.instance_id or before.sequence < said.sequence
