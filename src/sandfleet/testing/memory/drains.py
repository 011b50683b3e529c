"""Drains in memory (port: `ports.drain_store.DrainStore`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sandfleet.model.drain import ASKED_FOR, Drain, DrainOwner, DrainState, DrainTerms
from sandfleet.model.errors import NotFound
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link


class MemoryDrainStore:
    """The drains that have not been undone."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def begin(self, worker_id: WorkerId, *, actor: str, terms: DrainTerms | None = None) -> Drain:
        """Write it down."""

        def work() -> Drain:
            begin_drain(self._database, worker_id, owner=DrainOwner.OPERATOR, actor=actor, terms=terms)
            return self._database.drains[worker_id]

        return await self._link.call(work, repeatable=True, name="begin_drain")

    async def end(self, worker_id: WorkerId, *, actor: str) -> bool:
        """Take it back."""

        def work() -> bool:
            return end_drain(self._database, worker_id, actor=actor, reason=ASKED_FOR)

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
            now, is_news = database.now(), drain.state is not before.state
            is_drained, is_stuck = (drain.state is one for one in (DrainState.DRAINED, DrainState.STUCK))
            database.drains[drain.worker_id] = replace(
                before,
                state=drain.state,
                moved=drain.moved,
                slept=drain.slept,
                stays=tuple(drain.stays),
                drained_at=(before.drained_at or now) if is_drained else None,
                stuck_at=(before.stuck_at or now) if is_stuck else None,
            )
            if is_news and (is_drained or is_stuck):
                event, reason = drain.news
                database.tell(FleetNews(event, reason, drain.worker_id), actor="drain")
            return True

        return await self._link.call(work, repeatable=True, name="save_drain")


def begin_drain(
    database: MemoryDatabase,
    worker_id: WorkerId,
    *,
    owner: DrainOwner,
    actor: str,
    terms: DrainTerms | None,
) -> DrainOwner:
    """Write it down, or take over what a loop has begun; return whose it is. NotFound."""
    worker, before = _known(database, worker_id), database.drains.get(worker_id)
    agreed = terms or DrainTerms()
    if before is not None and not owner.takes_over(before.owner):
        is_new = before.owner is owner and owner.may_renew and terms is not None
        if not is_new:
            return before.owner
    now = database.now()
    database.drains[worker_id] = replace(
        before or Drain(worker_id, actor, now),
        actor=actor,
        owner=owner,
        reason=agreed.reason,
        deadline_at=now + timedelta(seconds=agreed.deadline_s),
        hibernates=agreed.hibernates,
    )
    if before is None:
        worker = _mark(database, worker, draining=True)
    news = FleetNews("drain_requested", agreed.reason, worker_id)
    database.tell(news, actor=actor, before=worker.state, after=worker.state)
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
    news = FleetNews("drain_undone", reason, worker_id)
    database.tell(news, actor=actor, before=worker.state, after=worker.state)
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
