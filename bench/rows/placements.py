"""Placements per second on one core: 10,000 workers with 200,000 sandboxes, and what more workers cost."""

from __future__ import annotations

import random
import time
from bisect import bisect_left, insort

from bench.samples import Row, Samples
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import MachineSize
from sandfleet.model.resources import Resources
from sandfleet.planning.placement import Placement, PlacementPolicy, PlacementRequest
from sandfleet.planning.placement_index import PlacementIndex
from sandfleet.planning.sizes_to_launch import empty_worker
from sandfleet.testing.virtual_fleet.generate import SHARES, SIZES_MIB

FLEETS = (100, 1_000, 10_000)
SANDBOXES_PER_WORKER = 20
ROUNDS = 5
CHANGES_MAX = 5_000
"""In one round so many sandboxes end, and as many are placed; of a small fleet half."""
PER_SECOND_MIN = 2_000.0
SIZE = MachineSize("bench", "usual", Resources(131_072, 32, 8_000_000))
POLICY = PlacementPolicy(cpu_ratio_max=4.0)
_MEMORY_PER_CPU_MIB = 4096


class _Fleet:
    """The product's index and the floor's bare list, with the same sandboxes."""

    def __init__(self, workers: int) -> None:
        self._dice = random.Random(workers)
        self._changes = min(CHANGES_MAX, workers * SANDBOXES_PER_WORKER // 2)
        fleet = [
            empty_worker(f"wk-{number:05}", SIZE, version="1", templates={"base": "1"})
            for number in range(workers)
        ]
        self._index = PlacementIndex(fleet, POLICY)
        self._free = sorted((SIZE.resources.memory_mib, worker.id) for worker in fleet)
        self._free_mib = dict.fromkeys((worker.id for worker in fleet), SIZE.resources.memory_mib)
        self._lives: list[tuple[WorkerId, Resources]] = []
        self._lives_bare: list[tuple[WorkerId, int]] = []
        for request in self._requests(workers * SANDBOXES_PER_WORKER):
            self._place(request)
            self._place_bare(request.resources.memory_mib)

    def product_per_s(self) -> float:
        """Let some end, then place as many; only the placing is timed."""
        for _ in range(self._changes):
            self._index.release(*self._lives.pop(self._dice.randrange(len(self._lives))))
        requests = self._requests(self._changes)
        began = time.perf_counter()
        for request in requests:
            self._place(request)
        return self._changes / (time.perf_counter() - began)

    def floor_per_s(self) -> float:
        """Do the same to the bare list."""
        for _ in range(self._changes):
            worker_id, memory_mib = self._lives_bare.pop(self._dice.randrange(len(self._lives_bare)))
            self._change_bare(worker_id, memory_mib)
        sizes = [request.resources.memory_mib for request in self._requests(self._changes)]
        began = time.perf_counter()
        for memory_mib in sizes:
            self._place_bare(memory_mib)
        return self._changes / (time.perf_counter() - began)

    def _requests(self, count: int) -> list[PlacementRequest]:
        sizes = self._dice.choices(SIZES_MIB, SHARES, k=count)
        return [
            PlacementRequest(Resources(size, max(1, size // _MEMORY_PER_CPU_MIB), 20480), "base", "local")
            for size in sizes
        ]

    def _place(self, request: PlacementRequest) -> None:
        choice = self._index.place(request)
        if isinstance(choice, Placement):
            self._index.reserve(choice.worker_id, request.resources)
            self._lives.append((choice.worker_id, request.resources))

    def _place_bare(self, memory_mib: int) -> None:
        at = bisect_left(self._free, (memory_mib, ""))
        if at < len(self._free):
            worker_id = self._free[at][1]
            self._change_bare(worker_id, -memory_mib)
            self._lives_bare.append((worker_id, memory_mib))

    def _change_bare(self, worker_id: WorkerId, by_mib: int) -> None:
        free_mib = self._free_mib[worker_id]
        del self._free[bisect_left(self._free, (free_mib, worker_id))]
        self._free_mib[worker_id] = free_mib + by_mib
        insort(self._free, (free_mib + by_mib, worker_id))


def measure() -> list[Row]:
    """Measure."""
    costs_us: list[str] = []
    product, floor = Samples(), Samples()
    for workers in FLEETS:
        fleet, product, floor = _Fleet(workers), Samples(), Samples()
        for number in range(ROUNDS):
            sides = [(product, fleet.product_per_s), (floor, fleet.floor_per_s)]
            for samples, side in sides if number % 2 else reversed(sides):
                samples.values.append(side())
        costs_us.append(f"{1e6 / product.median:.0f} us with {workers:,} workers")
    return [
        Row(
            what="placements, 10,000 workers with 200,000 sandboxes",
            unit="/s",
            product=product,
            floor=floor,
            floor_is="best fit on memory alone over one sorted list",
            target="> 2,000 /s",
            meets=product.median > PER_SECOND_MIN,
            note=f"Decision and reservation in memory, one core; the cost of one is {', '.join(costs_us)}.",
        )
    ]
