"""The rule of `placement` over a sorted fleet: the same choice without a look at every worker.

`placement.place` says what is right; this finds it. Workers fall into kinds: same place,
version, templates, processor and size. The rule's filters are asked once for each kind,
and within a kind the fullest worker that fits is found by bisection. Why each worker was
refused is worked out when somebody reads it, which must be before the fleet changes again.

The cost of a placement rises with the number of kinds, of which a fleet has few, and
hardly with the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources
from sandfleet.model.worker import Worker
from sandfleet.planning.free_list import FreeList
from sandfleet.planning.placement import (
    KIND_REFUSALS,
    STANDING_REFUSALS,
    Candidate,
    FleetView,
    NoPlacement,
    Placement,
    PlacementPolicy,
    PlacementRequest,
    best_fit_reason,
    consider,
    limits_of,
    share_after,
)

_Kind = tuple[object, ...]
# Filters that look at the worker alone do not read it.
_NO_REQUEST = PlacementRequest(Resources(0, 0, 0), "", "")


@dataclass(slots=True)
class _Slot:
    worker: Worker
    committed: Resources
    kind: _Kind | None
    """None: it takes nothing, whatever is asked for."""

    def now(self) -> Worker:
        return replace(self.worker, committed=self.committed)


@dataclass(slots=True)
class _Shelf:
    """The workers of one kind."""

    example: Worker
    limits: Resources
    free: FreeList


class PlacementIndex:
    """A fleet that changes by one worker or one reservation at a time."""

    def __init__(self, workers: Iterable[Worker], policy: PlacementPolicy) -> None:
        self._policy = policy
        self._slots: dict[WorkerId, _Slot] = {}
        self._shelves: dict[_Kind, _Shelf] = {}
        self.changes = 0
        """Rises with every change."""
        for worker in workers:
            self.put(worker)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, worker_id: WorkerId) -> bool:
        return worker_id in self._slots

    def put(self, worker: Worker) -> None:
        """Add a worker, or replace what is known of it."""
        self.changes += 1
        self.drop(worker.id)
        refused = any(refuse(worker, _NO_REQUEST, self._policy) for _, refuse in STANDING_REFUSALS)
        slot = _Slot(worker, worker.committed, None if refused else _kind_of(worker))
        self._slots[worker.id] = slot
        if slot.kind is not None:
            if slot.kind not in self._shelves:
                self._shelves[slot.kind] = _Shelf(worker, limits_of(worker, self._policy), FreeList())
            self._shelve(slot)

    def drop(self, worker_id: WorkerId) -> None:
        """Forget a worker; nothing if it is not known."""
        self.changes += 1
        slot = self._slots.pop(worker_id, None)
        if slot is None or slot.kind is None:
            return
        shelf = self._shelves[slot.kind]
        shelf.free.remove(worker_id)
        if not shelf.free:
            del self._shelves[slot.kind]

    def reserve(self, worker_id: WorkerId, resources: Resources) -> None:
        """Promise that much of a worker."""
        self._commit(self._slots[worker_id], self._slots[worker_id].committed + resources)

    def release(self, worker_id: WorkerId, resources: Resources) -> None:
        """Take that much of a worker's promises back."""
        self._commit(self._slots[worker_id], self._slots[worker_id].committed - resources)

    def committed(self, worker_id: WorkerId) -> Resources:
        """Return what is promised of a worker."""
        return self._slots[worker_id].committed

    def worker(self, worker_id: WorkerId) -> Worker:
        """Return a worker as it stands."""
        return self._slots[worker_id].now()

    def view(self) -> FleetView:
        """Return the fleet as it stands."""
        return FleetView([slot.now() for slot in self._slots.values()])

    def place(
        self, request: PlacementRequest, *, excluded: Set[WorkerId] = frozenset()
    ) -> Placement | NoPlacement:
        """Choose what `placement.place` chooses among the workers that are not excluded."""
        at_home = self._with_saved_state(request, excluded)
        if at_home is not None:
            return at_home
        best: tuple[float, WorkerId] | None = None
        for shelf in self._shelves.values():
            if any(refuse(shelf.example, request, self._policy) for _, refuse in KIND_REFUSALS):
                continue
            found = shelf.free.first_fit(request.resources, excluded=excluded)
            if found is None:
                continue
            # Negated, so that the least is the fullest and then the smallest id.
            one = (-share_after(self._slots[found].committed, request, shelf.example.total), found)
            best = one if best is None else min(best, one)
        if best is None:
            return NoPlacement(refusals=_Refusals(self, request, excluded))
        return Placement(worker_id=best[1], reason=best_fit_reason(-best[0]))

    def _with_saved_state(self, request: PlacementRequest, excluded: Set[WorkerId]) -> Placement | None:
        """A worker that has the saved state comes first, if nothing refuses it."""
        home = request.saved.worker_id if request.saved is not None else None
        if home is None or home not in self._slots or home in excluded:
            return None
        candidate = consider(self._slots[home].now(), request, self._policy)
        return None if candidate.score is None else Placement(home, candidate.reason)

    def candidates(
        self, request: PlacementRequest, *, excluded: Set[WorkerId] = frozenset()
    ) -> Sequence[Candidate]:
        """Return what the rule says of every worker, by id."""
        slots = sorted(self._slots.values(), key=lambda slot: slot.worker.id)
        return [
            consider(slot.now(), request, self._policy) for slot in slots if slot.worker.id not in excluded
        ]

    def _commit(self, slot: _Slot, committed: Resources) -> None:
        self.changes += 1
        slot.committed = committed
        if slot.kind is not None:
            self._shelves[slot.kind].free.remove(slot.worker.id)
            self._shelve(slot)

    def _shelve(self, slot: _Slot) -> None:
        assert slot.kind is not None
        shelf = self._shelves[slot.kind]
        shelf.free.add(slot.worker.id, shelf.limits - slot.committed)


class _Refusals(Mapping[WorkerId, str]):
    """Why each worker was refused, worked out at the first reading: a full fleet is refused often."""

    def __init__(self, index: PlacementIndex, request: PlacementRequest, excluded: Set[WorkerId]) -> None:
        self._index = index
        self._changes = index.changes
        self._request = request
        self._excluded = excluded
        self._reasons: dict[WorkerId, str] | None = None

    def _read(self) -> dict[WorkerId, str]:
        if self._reasons is None:
            if self._index.changes != self._changes:
                raise RuntimeError("the fleet has changed since it refused: ask it again")
            candidates = self._index.candidates(self._request, excluded=self._excluded)
            self._reasons = {one.worker_id: one.reason for one in candidates}
        return self._reasons

    def __getitem__(self, worker_id: WorkerId) -> str:
        return self._read()[worker_id]

    def __iter__(self) -> Iterator[WorkerId]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return f"{self._read()!r}"


def _kind_of(worker: Worker) -> _Kind:
    return (
        worker.region,
        worker.worker_version,
        frozenset(worker.templates),
        worker.accelerator,
        worker.cpu_model,
        worker.total,
    )
