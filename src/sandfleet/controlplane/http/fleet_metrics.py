"""Figures of the planners: read from what the leader has written down, so every replica tells the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge

from sandfleet.controlplane.dependencies import Stores
from sandfleet.model.launch import Launch
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.capacity_figures import CapacityFigures
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.ports.rollout_store import StoredRollout

_BYTES_PER_MIB = 1024 * 1024
_COUNTED = {
    "desired": ("desired_workers", "Workers that there should be, by the planner's last round."),
    "current": ("current_workers", "Workers that are there or on their way, and not on their way out."),
    "launching": ("launching_machines", "Machines that were asked for and have not joined."),
    "draining": ("draining_workers", "Workers that are being emptied."),
    "occupied": ("occupied_workers", "Workers that hold something when all demand is placed."),
    "standing": ("standing_workers", "Workers that are there and take nothing now."),
    "idle_reserve": ("idle_reserve_workers", "Workers that are kept empty, so that a burst need not wait."),
    "surge": ("surge_workers", "Workers above the usual number that a roll-out asks for."),
    "workers_max": ("workers_max", "The most that there may be."),
    "queued": ("queued_sandboxes", "Creates that waited at the planner's last round."),
    "unplaced": ("unplaced_sandboxes", "Creates that no worker and no machine that may be had could hold."),
    "launches_left": ("launches_left_machines", "How many more may be asked for now."),
    "drains_left": ("drains_left_workers", "How many more may be drained now."),
    "drains_refused": (
        "drains_refused_workers",
        "Workers that the fleet would do without, and must not or cannot drain now.",
    ),
    "sizes_refused": ("sizes_refused", "Sizes of machines that may not be asked for now."),
}


class FleetGauges:
    """One replica's view of what the fleet wants and has."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"sandfleet_{name}", text, labels, registry=registry)

        self._counted = {field: gauge(f"capacity_{name}", text) for field, (name, text) in _COUNTED.items()}
        self._demand = gauge("capacity_demand_bytes", "Memory that is promised, or waited for.")
        self._queued = gauge("capacity_queued_bytes", "Memory of the creates that waited.")
        self._frozen = gauge("capacity_frozen", "1 while too many workers are unhealthy to take one away.")
        self._backoff = gauge(
            "pool_backoff_seconds", "How long a pool or a size is not asked again.", "size", "failure"
        )
        self._failures = gauge("pool_failures", "Launches that failed in a row.", "size", "failure")
        self._launches = gauge("launches", "Launches that own a machine or wait for one.", "pool", "state")
        self._workers = gauge("workers", "Workers that are not gone.", "state", "version")
        self._rollout = gauge("rollout", "1 for the stage of the newest roll-out.", "version", "stage")
        self._stage_s = gauge("rollout_stage_seconds", "How long a roll-out is in its stage.", "stage")

    async def read(self, stores: Stores, workers: Sequence[Worker], *, now: datetime) -> None:
        """Set them all."""
        memory = await stores.fleet.memory()
        self._set_figures(memory.figures or CapacityFigures())
        self._set_pools(memory, await stores.fleet.launches(), now)
        self._set_versions(workers, await stores.rollouts.current(), now)

    def _set_figures(self, figures: CapacityFigures) -> None:
        for name, gauge in self._counted.items():
            gauge.set(getattr(figures, name))
        self._demand.set(figures.demand_mib * _BYTES_PER_MIB)
        self._queued.set(figures.queued_mib * _BYTES_PER_MIB)
        self._frozen.set(bool(figures.frozen))

    def _set_pools(self, memory: CapacityMemory, launches: Sequence[Launch], now: datetime) -> None:
        self._backoff.clear()
        self._failures.clear()
        for size, backoff in memory.backoffs.items():
            left_s = max(0.0, (backoff.until - now).total_seconds())
            self._backoff.labels(size, backoff.why.value).set(left_s)
            self._failures.labels(size, backoff.why.value).set(backoff.failures)
        self._launches.clear()
        for labels, count in Counter((one.pool, _state(one)) for one in launches if not one.gone_at).items():
            self._launches.labels(*labels).set(count)

    def _set_versions(self, workers: Sequence[Worker], newest: StoredRollout | None, now: datetime) -> None:
        there = (one for one in workers if one.state is not WorkerState.GONE)
        self._workers.clear()
        for labels, count in Counter((one.state.value, one.worker_version) for one in there).items():
            self._workers.labels(*labels).set(count)
        self._rollout.clear()
        self._stage_s.clear()
        if newest is not None:
            rollout, stage = newest.rollout, newest.rollout.stage.value
            self._rollout.labels(rollout.version, stage).set(1)
            if rollout.is_under_way:
                self._stage_s.labels(stage).set((now - rollout.stage_at).total_seconds())


def _state(launch: Launch) -> str:
    return "ending" if launch.is_ending else launch.state.value
