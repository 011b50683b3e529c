"""Drains in memory (port: `ports.drain_store.DrainStore`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandfleet.model.drain import Drain, DrainOwner, DrainState
from sandfleet.model.errors import NotFound
from sandfleet.model.ids import WorkerId
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link

_ASKED_FOR = "asked for"


class MemoryDrainStore:
    """The drains that have not been undone."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def begin(self, worker_id: WorkerId, *, actor: str) -> Drain:
        """Write it down."""

        def work() -> Drain:
            owner = DrainOwner.OPERATOR
            begin_drain(self._database, worker_id, owner=owner, actor=actor, reason=_ASKED_FOR)
            return self._database.drains[worker_id]

        return await self._link.call(work, repeatable=True, name="begin_drain")

    async def end(self, worker_id: WorkerId, *, actor: str) -> bool:
        """Take it back."""

        def work() -> bool:
            return end_drain(self._database, worker_id, actor=actor, reason=_ASKED_FOR)

        return await self._link.call(work, repeatable=True, name="end_drain")

    async def get(self, worker_id: WorkerId) -> Drain | None:
        """Return it."""
        return await self._link.call(
            lambda: self._database.drains.get(worker_id), repeatable=True, name="get_drain"
        )

    async def list(self) -> Sequence[Drain]:
        """Return those of workers that are not gone."""

        def work() -> Sequence[Drain]:
            database = self._database
            return [
                database.drains[name]
                for name in sorted(database.drains)
                if database.workers[name].state is not WorkerState.GONE
            ]

        return await self._link.call(work, repeatable=True, name="list_drains")

    async def save(self, drain: Drain, *, term: int) -> bool:
        """Write down what was seen."""

        def work() -> bool:
            database = self._database
            database.require_term(term)
            before = database.drains.get(drain.worker_id)
            if before is None or before.begun_at != drain.begun_at:
                return False
            is_news = drain.state is DrainState.DRAINED and before.state is not DrainState.DRAINED
            drained_at = database.now() if is_news else before.drained_at
            if drain.state is not DrainState.DRAINED:
                drained_at = None
            database.drains[drain.worker_id] = replace(
                before, state=drain.state, moved=drain.moved, stays=tuple(drain.stays), drained_at=drained_at
            )
            if is_news:
                worker = database.workers[drain.worker_id]
                _log(
                    database, worker, event="drained", actor="drain", reason=f"{drain.moved} sandboxes moved"
                )
            return True

        return await self._link.call(work, repeatable=True, name="save_drain")


def begin_drain(
    database: MemoryDatabase, worker_id: WorkerId, *, owner: DrainOwner, actor: str, reason: str
) -> DrainOwner:
    """Write it down, or take over what a loop has begun; return whose it is. NotFound."""
    worker, before = _known(database, worker_id), database.drains.get(worker_id)
    if before is None:
        database.drains[worker_id] = Drain(worker_id, actor, database.now(), owner=owner, reason=reason)
        worker = _mark(database, worker, draining=True)
    elif owner is DrainOwner.OPERATOR and before.owner is not owner:
        database.drains[worker_id] = replace(before, actor=actor, owner=owner, reason=reason)
    else:
        return before.owner
    _log(database, worker, event="drain_requested", actor=actor, reason=reason)
    return owner


def end_drain(
    database: MemoryDatabase, worker_id: WorkerId, *, actor: str, reason: str, owner: DrainOwner | None = None
) -> bool:
    """Take it back, if it is `owner`'s; false when there is none such. NotFound."""
    worker, before = _known(database, worker_id), database.drains.get(worker_id)
    if before is None or owner not in (None, before.owner):
        return False
    del database.drains[worker_id]
    worker = _mark(database, worker, draining=False)
    _log(database, worker, event="drain_undone", actor=actor, reason=reason)
    return True


def _known(database: MemoryDatabase, worker_id: WorkerId) -> Worker:
    worker = database.workers.get(worker_id)
    if worker is None or worker.state is WorkerState.GONE:
        raise NotFound(f"worker {worker_id} not found")
    return worker


def _mark(database: MemoryDatabase, worker: Worker, *, draining: bool) -> Worker:
    after = replace(worker, draining=draining, version=worker.version + 1)
    database.workers[worker.id] = after
    return after


def _log(database: MemoryDatabase, worker: Worker, *, event: str, actor: str, reason: str) -> None:
    database.log(
        Transition(
            event=event,
            actor=actor,
            reason=reason,
            at=database.now(),
            from_state=worker.state,
            to_state=worker.state,
            worker_id=worker.id,
        )
    )
