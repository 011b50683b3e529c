"""Which size of machine is asked for: the first of the policy's order that holds it and may be had now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import MachineSize
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.backoff import Backoff, refusal
from sandfleet.planning.placement import PlacementPolicy, PlacementRequest, consider


@dataclass(slots=True)
class SizeChooser:
    """Counts what is chosen, so that no pool gets more than it may."""

    sizes: Sequence[MachineSize]
    machines_max: Mapping[str, int]
    """By key of a size, or by name of a pool."""
    placement: PlacementPolicy
    backoffs: Mapping[str, Backoff]
    now: datetime
    machines: Counter[str]
    """How many there are of each size and in each pool, those on their way included."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a size was passed over."""

    def choose(self, request: PlacementRequest | None) -> MachineSize | None:
        """Return the size for this request, or for anything; None if none may be had."""
        for size in self.sizes:
            reason = self._refusal(size, request)
            if reason is None:
                self.machines.update([size.key, size.pool])
                return size
            self.refused[size.key] = reason
        return None

    def _refusal(self, size: MachineSize, request: PlacementRequest | None) -> str | None:
        for name in (size.key, size.pool):
            most = self.machines_max.get(name)
            if most is not None and self.machines[name] >= most:
                return f"{name} has {self.machines[name]} machines, {most} at most"
        waiting = refusal(self.backoffs, size.key, now=self.now)
        if waiting is not None or request is None:
            return waiting
        empty = empty_worker(
            "new", size, version=request.worker_version or "", templates={request.template: ""}
        )
        candidate = consider(empty, request, self.placement)
        return None if candidate.score is not None else candidate.reason


def empty_worker(name: str, size: MachineSize, *, version: str, templates: Mapping[str, str]) -> Worker:
    """Return the worker that a machine of this size becomes."""
    return Worker(
        id=WorkerId(name),
        machine_id=name,
        region=size.region,
        state=WorkerState.READY,
        version=0,
        http_url="",
        total=size.resources,
        templates=templates,
        worker_version=version,
        accelerator=size.accelerator,
        cpu_model=size.cpu_model,
    )
