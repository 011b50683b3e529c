"""A worker: one host that runs sandboxes, as the control plane knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import NOTHING, Resources


class WorkerState(StrEnum):
    """Observed state of a worker. None of them says anything about its sandboxes but the last.

    `silent`: not heard of for some heartbeats, or about to stop; it gets nothing new.
    `unreachable`: silent for so long that somebody should look. `gone`: it is known that
    the host is no more, or was emptied; no heartbeat brings it back.
    """

    READY = "ready"
    SILENT = "silent"
    UNREACHABLE = "unreachable"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Worker:
    """One row of a worker and the sum of the reservations that it carries."""

    id: WorkerId
    machine_id: str
    region: str
    state: WorkerState
    version: int
    http_url: str
    total: Resources
    committed: Resources = NOTHING
    cordoned: bool = False
    draining: bool = False
    drain_reason: str | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    """Name of each template the worker can start, to its version (a digest)."""
    worker_version: str = ""
    accelerator: str = ""
    cpu_model: str = ""
    memory_used_mib: int = 0
    cpu_percent: float = 0.0
    disk_used_mib: int = 0
    host_memory_mib: int = 0
    """What the host itself has, whatever is promised of it; 0 when the worker has not said."""
    host_cpus: int = 0
    host_disk_mib: int = 0
    """Of the file system where the sandboxes' disks lie."""
    ends_at: datetime | None = None
    """When whoever owns the host will take it away, if they have said so."""
    ends_because: str = ""
    gone_because: str = ""
    """Why it is off the fleet, once it is."""
    last_seen_at: datetime | None = None
    instance_id: str = ""
    """Names the worker's process; `sequence` rises with each of its heartbeats."""
    sequence: int = 0
