"""Demand tried out on a fleet: which workers would hold something, and what finds no place.

Placement's own rule decides, so what is proven here is what will happen. What was tried
can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker
from sandfleet.planning.placement import Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.placement_index import PlacementIndex


class Packing:
    """A fleet with demand placed on it."""

    def __init__(self, workers: Iterable[Worker], policy: PlacementPolicy) -> None:
        self._index = PlacementIndex((), policy)
        self.occupied: set[WorkerId] = set()
        """Workers that hold something."""
        self._tried: dict[WorkerId, list[PlacementRequest]] = {}
        for worker in workers:
            self.add(worker)

    def add(self, worker: Worker) -> None:
        """Add one more worker."""
        self._index.put(worker)
        if worker.committed.memory_mib > 0:
            self.occupied.add(worker.id)

    def place(self, request: PlacementRequest) -> WorkerId | None:
        """Place one and return where, None if it finds no place."""
        choice = self._index.place(request)
        if not isinstance(choice, Placement):
            return None
        self._index.reserve(choice.worker_id, request.resources)
        self.occupied.add(choice.worker_id)
        self._tried.setdefault(choice.worker_id, []).append(request)
        return choice.worker_id

    def place_all(self, requests: Iterable[PlacementRequest]) -> Sequence[PlacementRequest]:
        """Place them in this order and return those that find no place."""
        return [request for request in requests if self.place(request) is None]

    def holds(self, requests: Sequence[PlacementRequest]) -> bool:
        """Say whether all of them find a place; leave everything as it was."""
        occupied, moved = set(self.occupied), self._placed(requests)
        self._take_back(moved)
        self.occupied = occupied
        return len(moved) == len(requests)

    def empty(
        self, worker_id: WorkerId, residents: Sequence[PlacementRequest], *, occupied_max: int
    ) -> str | None:
        """Move everything off a worker and leave it out; or say why not, and leave all as it was.

        `occupied_max`: how many workers may hold something afterwards.
        """
        kept, occupied = self._index.worker(worker_id), set(self.occupied)
        # What was only tried out on it needs a place as well as what lives on it.
        tried = self._tried.pop(worker_id, [])
        leaving = [*residents, *tried]
        self._index.drop(worker_id)
        self.occupied.discard(worker_id)
        moved = self._placed(leaving)
        if len(moved) == len(leaving) and len(self.occupied) <= occupied_max:
            return None
        why = _refusal(len(leaving) - len(moved), len(self.occupied), occupied_max)
        self._take_back(moved)
        self._index.put(kept)
        self._tried[worker_id] = tried
        self.occupied = occupied
        return why

    def _placed(self, requests: Sequence[PlacementRequest]) -> Sequence[tuple[WorkerId, Resources]]:
        """Place them until one finds no place."""
        moved: list[tuple[WorkerId, Resources]] = []
        for request in requests:
            target = self.place(request)
            if target is None:
                break
            moved.append((target, request.resources))
        return moved

    def _take_back(self, moved: Sequence[tuple[WorkerId, Resources]]) -> None:
        for target, resources in reversed(moved):
            self._index.release(target, resources)
            self._tried[target].pop()


def _refusal(unplaced: int, occupied: int, occupied_max: int) -> str:
    if unplaced:
        return f"{unplaced} of its sandboxes find no place elsewhere"
    return f"without it {occupied} workers would hold something, {occupied_max} may"
