"""Workers of one size in the order of their free memory: the fullest that fits is found by bisection.

The list stands in blocks, so that an insertion moves few entries. Each block knows the
most vCPUs and disk that one of its workers has free, at least: a block that cannot hold
a request is passed over without a look at its workers. These bounds are lowered only
when a search found nothing in a block, so each fruitless search pays for later ones.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Set
from dataclasses import dataclass, field

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources

BLOCK_LENGTH_MAX = 128

Key = tuple[int, WorkerId]
"""Free memory, then id: equals go to the smaller id."""

_LEAST = WorkerId("")


@dataclass(slots=True)
class _Block:
    keys: list[Key]
    cpu_count_max: int
    disk_mib_max: int


@dataclass(slots=True)
class FreeList:
    """What each worker has free. `free` of a worker that is in the list changes by removal and addition."""

    _blocks: list[_Block] = field(default_factory=list)
    _lasts: list[Key] = field(default_factory=list)
    """The last key of each block."""
    _free: dict[WorkerId, Resources] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._free)

    def add(self, worker_id: WorkerId, free: Resources) -> None:
        """Put a worker in that is not in the list."""
        self._free[worker_id] = free
        key = (free.memory_mib, worker_id)
        at = min(bisect_left(self._lasts, key), len(self._blocks) - 1)
        if at < 0:
            self._blocks.append(_Block([key], free.cpu_count, free.disk_mib))
            self._lasts.append(key)
            return
        block = self._blocks[at]
        insort(block.keys, key)
        block.cpu_count_max = max(block.cpu_count_max, free.cpu_count)
        block.disk_mib_max = max(block.disk_mib_max, free.disk_mib)
        self._lasts[at] = block.keys[-1]
        if len(block.keys) > BLOCK_LENGTH_MAX:
            self._split(at)

    def remove(self, worker_id: WorkerId) -> None:
        """Take a worker out that is in the list."""
        key = (self._free.pop(worker_id).memory_mib, worker_id)
        at = bisect_left(self._lasts, key)
        keys = self._blocks[at].keys
        del keys[bisect_left(keys, key)]
        if keys:
            self._lasts[at] = keys[-1]
        else:
            del self._blocks[at], self._lasts[at]

    def first_fit(self, wanted: Resources, *, excluded: Set[WorkerId] = frozenset()) -> WorkerId | None:
        """Return the worker with the least free memory that has all that is wanted."""
        least = (wanted.memory_mib, _LEAST)
        for at in range(bisect_left(self._lasts, least), len(self._blocks)):
            block = self._blocks[at]
            if block.cpu_count_max < wanted.cpu_count or block.disk_mib_max < wanted.disk_mib:
                continue
            found = self._first_in(block, wanted, least, excluded)
            if found is not None:
                return found
            self._lower_bounds(block)
        return None

    def _first_in(
        self, block: _Block, wanted: Resources, least: Key, excluded: Set[WorkerId]
    ) -> WorkerId | None:
        for at in range(bisect_left(block.keys, least), len(block.keys)):
            worker_id = block.keys[at][1]
            free = self._free[worker_id]
            has_room = free.cpu_count >= wanted.cpu_count and free.disk_mib >= wanted.disk_mib
            if has_room and worker_id not in excluded:
                return worker_id
        return None

    def _lower_bounds(self, block: _Block) -> None:
        free = [self._free[worker_id] for _, worker_id in block.keys]
        block.cpu_count_max = max(one.cpu_count for one in free)
        block.disk_mib_max = max(one.disk_mib for one in free)

    def _split(self, at: int) -> None:
        block = self._blocks[at]
        half = len(block.keys) // 2
        first = _Block(block.keys[:half], block.cpu_count_max, block.disk_mib_max)
        block.keys = block.keys[half:]
        self._blocks.insert(at, first)
        self._lasts.insert(at, first.keys[-1])
