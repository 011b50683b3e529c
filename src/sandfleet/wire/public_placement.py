"""Bodies of a sandbox's placement, and of what the planners would do."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sandfleet.wire.public_api import AnswerBody, Integer, RequestBody, Time


class PlacementRequestBody(AnswerBody):
    """What was asked for."""

    memory_mib: int = Field(serialization_alias="memoryMB")
    cpu_count: int
    disk_mib: int = Field(serialization_alias="diskMB")
    region: str
    template_id: str = Field(serialization_alias="templateID")


class CandidateBody(AnswerBody):
    """One worker that there was then: its score, or the filter that refused it."""

    worker_id: str
    chosen: bool
    score: float | None
    refused_by: str | None
    reason: str


class StayedBody(AnswerBody):
    """One worker that it was on, under one epoch."""

    worker_id: str
    epoch: int
    since: Time = Field(serialization_alias="from")
    until: Time | None = Field(serialization_alias="to")
    cause: str
    reason: str


class PlacementBody(AnswerBody):
    """Why a sandbox is where it is; without a worker, where it was. The newest stay comes first."""

    sandbox_id: str
    worker_id: str | None
    epoch: int
    placed_at: Time | None = None
    cause: str | None = None
    reason: str | None = None
    request: PlacementRequestBody | None = None
    candidates: list[CandidateBody] | None = None
    """Of keys with the scope `admin` alone."""
    candidates_left_out: int = 0
    history: list[StayedBody] = Field(default_factory=list)


class PlanOrder(RequestBody):
    """What is to be planned: a kind, what it is asked with, and how the fleet is to be thought otherwise."""

    kind: str | None = None
    request: dict[str, Any] | None = None
    changes: list[dict[str, Any]] | None = None
    at: str | None = None
    view: dict[str, Any] | None = None


class GivenSandboxOrder(RequestBody):
    """A sandbox of a fleet that is described; what it uses is what would be measured of it."""

    sandbox_id: str | None = Field(None, alias="sandboxID")
    count: Integer | None = None
    memory_mib: Integer | None = Field(None, alias="memoryMB")
    cpu_count: Integer | None = None
    disk_mib: Integer | None = Field(None, alias="diskMB")
    region: str | None = None
    template_id: str | None = Field(None, alias="templateID")
    memory_used_mib: Integer | None = Field(None, alias="memoryUsedMB")
    disk_used_mib: Integer | None = Field(None, alias="diskUsedMB")
    cpu_used: float | None = None


class GivenWorkerOrder(RequestBody):
    """A worker of a fleet that is described: what may be promised of it, and what its host has and uses."""

    worker_id: str | None = Field(None, alias="workerID")
    size: str | None = None
    """The key of its machine's size, as `ec2/large`; without it the fleet cannot end it."""
    state: str | None = None
    memory_mib: Integer | None = Field(None, alias="memoryMB")
    cpu_count: Integer | None = None
    disk_mib: Integer | None = Field(None, alias="diskMB")
    region: str | None = None
    templates: list[str] | None = None
    version: str | None = None
    accelerator: str | None = None
    cpu_model: str | None = None
    draining: bool | None = None
    cordoned: bool | None = None
    age_s: float | None = None
    host_memory_mib: Integer | None = Field(None, alias="hostMemoryMB")
    memory_used_mib: Integer | None = Field(None, alias="memoryUsedMB")
    host_disk_mib: Integer | None = Field(None, alias="hostDiskMB")
    disk_used_mib: Integer | None = Field(None, alias="diskUsedMB")
    host_cpus: Integer | None = None
    cpu_percent: float | None = None
    sandboxes: list[GivenSandboxOrder] | None = None


class MachineSizeOrder(RequestBody):
    """A size of machine that a policy may have launched."""

    name: str | None = None
    """As `ec2/large`."""
    memory_mib: Integer | None = Field(None, alias="memoryMB")
    cpu_count: Integer | None = None
    disk_mib: Integer | None = Field(None, alias="diskMB")
    price_per_hour: float | None = None


class GivenFleetOrder(RequestBody):
    """A whole fleet, in place of the one that is there. `policy` is that of capacity."""

    workers: list[GivenWorkerOrder] | None = None
    waiting: list[GivenSandboxOrder] | None = None
    policy: dict[str, Any] | None = None


class SizeOrder(RequestBody):
    """So many sandboxes or workers of one size; what is left out is as a create has it, or a worker."""

    count: Integer | None = None
    memory_mib: Integer | None = Field(None, alias="memoryMB")
    cpu_count: Integer | None = None
    disk_mib: Integer | None = Field(None, alias="diskMB")
    region: str | None = None
    template_id: str | None = Field(None, alias="templateID")
    version: str | None = None
    worker_id: str | None = Field(None, alias="workerID")
    sandbox_id: str | None = Field(None, alias="sandboxID")


class DecisionBody(AnswerBody):
    """One command of a plan, with its reason."""

    command: str
    subject: str
    to: str | None
    reason: str


class RejectionBody(AnswerBody):
    """Who was passed over for what, by which filter, and why."""

    subject: str
    worker_id: str | None
    filter: str
    reason: str


class PlanBody(AnswerBody):
    """What the planners would do now, and nothing is done. Equal views give equal plans."""

    at: Time
    term: int
    view_version: str
    summary: str
    decisions: list[DecisionBody]
    rejected: list[RejectionBody]
