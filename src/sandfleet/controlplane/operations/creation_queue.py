"""Creates of this replica that wait for a place, tried in turn when capacity may have come.

The order between replicas and organisations is decided under the store's lock
(`planning.queue`); the order here only saves attempts that could not succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sandfleet.model.ids import OperationId
from sandfleet.planning.placement import NoPlacement, PlacementRequest
from sandfleet.planning.queue import Waiting, in_turn
from sandfleet.ports.coordination import WakeUps
from sandfleet.ports.stores import Placed

CAPACITY_TOPIC = "capacity"
"""Published whenever a place may have become free, and whenever somebody leaves the queue."""
QUEUE_TOPIC = "queue"
"""Published when somebody begins to wait: that is demand, and the planner of capacity looks at once."""

Attempt = Callable[[], Awaitable[Placed | NoPlacement]]


@dataclass(slots=True)
class _Entry:
    waiting: Waiting
    attempt: Attempt
    outcome: asyncio.Future[Placed]


class CreationQueue:
    """One for each replica. `run` serves it."""

    def __init__(self, wake_ups: WakeUps) -> None:
        self._wake_ups = wake_ups
        self._entries: dict[OperationId, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def wait(self, waiting: Waiting, attempt: Attempt) -> Placed:
        """Return the place once an attempt succeeds; the caller bounds the wait."""
        entry = _Entry(waiting, attempt, asyncio.get_running_loop().create_future())
        self._entries[waiting.operation_id] = entry
        try:
            return await entry.outcome
        finally:
            del self._entries[waiting.operation_id]

    async def run(self) -> None:
        """Serve until cancelled; also tries about once a second without any hint."""
        async for _ in self._wake_ups.subscribe(CAPACITY_TOPIC):
            await self._serve()

    async def _serve(self) -> None:
        refused: list[PlacementRequest] = []
        for waiting in in_turn([entry.waiting for entry in self._entries.values()]):
            entry = self._entries.get(waiting.operation_id)
            if entry is None or entry.outcome.done() or _is_pointless(waiting, refused):
                continue
            answer = await self._try(entry)
            if answer is not None and answer.behind == 0:
                refused.append(waiting.request)

    async def _try(self, entry: _Entry) -> NoPlacement | None:
        try:
            answer = await entry.attempt()
        except Exception as error:  # noqa: BLE001 -- belongs to the operation that waits
            if not entry.outcome.done():
                entry.outcome.set_exception(error)
            return None
        if isinstance(answer, NoPlacement):
            return answer
        if not entry.outcome.done():
            entry.outcome.set_result(answer)
        return None


def _is_pointless(waiting: Waiting, refused: list[PlacementRequest]) -> bool:
    """Whether something no larger found no room a moment ago."""
    wanted = waiting.request
    return any(
        wanted.template == other.template
        and wanted.region == other.region
        and wanted.resources.memory_mib >= other.resources.memory_mib
        and wanted.resources.cpu_count >= other.resources.cpu_count
        and wanted.resources.disk_mib >= other.resources.disk_mib
        for other in refused
    )
