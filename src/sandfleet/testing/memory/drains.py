"""Drains in memory (port: `ports.drain_store.DrainStore`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sandfleet.model.drain import Drain, DrainState
from sandfleet.model.errors import NotFound
from sandfleet.model.ids import WorkerId
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.link import Link


class MemoryDrainStore:
    """The drains that have not been undone."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def begin(self, worker_id: WorkerId, *, actor: str) -> Drain:
        """Write it down."""

        def work() -> Drain:
            database = self._database
            worker = self._known(worker_id)
            if worker_id not in database.drains:
                database.drains[worker_id] = Drain(worker_id, actor, database.now())
                self._change(worker, draining=True, event="drain_requested", actor=actor)
            return database.drains[worker_id]

        return await self._link.call(work, repeatable=True, name="begin_drain")

    async def end(self, worker_id: WorkerId, *, actor: str) -> bool:
        """Take it back."""

        def work() -> bool:
            worker = self._known(worker_id)
            if self._database.drains.pop(worker_id, None) is None:
                return False
            self._change(worker, draining=False, event="drain_undone", actor=actor)
            return True

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
            database.drains[drain.worker_id] = replace(drain, stays=tuple(drain.stays), drained_at=drained_at)
            if is_news:
                worker = database.workers[drain.worker_id]
                self._log(worker, event="drained", actor="drain", reason=f"{drain.moved} sandboxes moved")
            return True

        return await self._link.call(work, repeatable=True, name="save_drain")

    def _known(self, worker_id: WorkerId) -> Worker:
        worker = self._database.workers.get(worker_id)
        if worker is None or worker.state is WorkerState.GONE:
            raise NotFound(f"worker {worker_id} not found")
        return worker

    def _change(self, worker: Worker, *, draining: bool, event: str, actor: str) -> None:
        after = replace(worker, draining=draining, version=worker.version + 1)
        self._database.workers[worker.id] = after
        self._log(after, event=event, actor=actor, reason="asked for")

    def _log(self, worker: Worker, *, event: str, actor: str, reason: str) -> None:
        self._database.log(
            Transition(
                event=event,
                actor=actor,
                reason=reason,
                at=self._database.now(),
                from_state=worker.state,
                to_state=worker.state,
                worker_id=worker.id,
            )
        )
