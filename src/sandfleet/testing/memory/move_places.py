"""The places of moving sandboxes in memory (port: `ports.move_store.MoveStore`)."""

from __future__ import annotations

from dataclasses import replace

from sandfleet.model.errors import Conflict, StaleVersion
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.model.worker import WorkerState
from sandfleet.planning.placement import FleetView, NoPlacement
from sandfleet.ports.move_store import MoveBeginning, MoveDecision
from sandfleet.testing.memory.database import MemoryDatabase, SecondPlace
from sandfleet.testing.memory.link import Link


class MemoryMoveStore:
    """Two places for a sandbox that moves, and one owner."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        self._database = database
        self._link = link

    async def begin(
        self,
        sandbox: Sandbox,
        decide: MoveDecision,
        *,
        term: int | None = None,
    ) -> MoveBeginning | NoPlacement:
        """Decide and write."""

        def work() -> MoveBeginning | NoPlacement:
            database = self._database
            database.require_term(term)
            held = database.reservations.get(sandbox.id)
            if held is None or held.worker_id != sandbox.worker_id:
                raise StaleVersion(f"sandbox {sandbox.id} is on its worker no longer")
            if sandbox.id in database.second_places:
                raise Conflict("an earlier move is not cleared away yet", code="operation_in_progress")
            workers = [one for one in database.workers.values() if one.state is not WorkerState.GONE]
            beginning = decide(
                FleetView([database.read_worker(one) for one in workers]), held.resources.memory_mib
            )
            if isinstance(beginning, NoPlacement):
                return beginning
            memory_mib = max(sandbox.resources.memory_mib, held.resources.memory_mib, beginning.memory_mib)
            self._admit(sandbox, memory_mib - held.resources.memory_mib)
            database.require_version(sandbox)
            database.insert_operation(beginning.operation)
            database.write_sandbox(sandbox)
            database.log(beginning.transition)
            database.second_places[sandbox.id] = SecondPlace(
                beginning.target, beginning.operation.id, replace(sandbox.resources, memory_mib=memory_mib)
            )
            return beginning

        return await self._link.call(work, name="begin_move")

    def _admit(self, sandbox: Sandbox, extra_mib: int) -> None:
        if extra_mib > 0:
            quotas = self._database.organisation(sandbox.organisation_id).quotas
            more = Resources(memory_mib=extra_mib, cpu_count=0, disk_mib=0)
            self._database.admit(sandbox.organisation_id, replace(quotas, sandboxes=None), more)

    async def commit(
        self, operation: Operation, sandbox: Sandbox, transition: Transition, *, source: WorkerId
    ) -> None:
        """Exchange both places with the row's change."""

        def work() -> None:
            database = self._database
            assert sandbox.worker_id is not None
            database.require_lease(operation)
            database.require_version(sandbox)
            database.write_sandbox(sandbox)
            database.write_operation(operation)
            database.log(transition)
            reserved, place = database.reservations[sandbox.id], database.second_places.pop(sandbox.id)
            database.reservations[sandbox.id] = replace(
                reserved, worker_id=sandbox.worker_id, resources=place.resources
            )
            database.second_places[sandbox.id] = replace(
                place, worker_id=source, resources=reserved.resources
            )

        await self._link.call(work, name="commit_move")

    async def release(self, operation: Operation) -> None:
        """End it and remove the place."""

        def work() -> None:
            database = self._database
            database.require_lease(operation)
            database.write_operation(operation)
            place = database.second_places.get(operation.sandbox_id)
            if place is not None and place.move_id == operation.arguments["move_id"]:
                del database.second_places[operation.sandbox_id]

        await self._link.call(work, name="release_move")
