"""Values for tests, with everything but the point of the test filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sandfleet.model.ids import OperationId, OrganisationId, SandboxId, WorkerId
from sandfleet.model.operation import Lease, Operation, OperationKind, OperationState
from sandfleet.model.organisation import Caps, Organisation, Quotas
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker, WorkerState

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
ORGANISATION = OrganisationId("00000000-0000-4000-8000-000000000001")


def a_worker(name: str = "wk-one", **changes: Any) -> Worker:
    """Return a ready worker with 16 GiB."""
    worker = Worker(
        id=WorkerId(name),
        machine_id="machine-1",
        region="local",
        state=WorkerState.READY,
        version=1,
        http_url=f"http://{name}:9000",
        total=Resources(memory_mib=16384, cpu_count=8, disk_mib=1_000_000),
        committed=NOTHING,
        templates={"base": "digest-1"},
        accelerator="tcg",
        instance_id="process-1",
        sequence=1,
    )
    return replace(worker, **changes)


def resources(memory_mib: int = 1024, *, cpu_count: int = 1, disk_mib: int = 20480) -> Resources:
    """Return the size of a usual sandbox."""
    return Resources(memory_mib=memory_mib, cpu_count=cpu_count, disk_mib=disk_mib)


def a_sandbox(name: str = "sb-one", **changes: Any) -> Sandbox:
    """Return a sandbox that was just asked for."""
    sandbox = Sandbox(
        id=SandboxId(name),
        organisation_id=ORGANISATION,
        state=SandboxState.CREATING,
        version=1,
        epoch=0,
        worker_id=None,
        template="base",
        resources=resources(),
        region="local",
        created_at=NOON,
        changed_at=NOON,
        active_at=NOON,
    )
    return replace(sandbox, **changes)


def a_lease(holder: str = "replica-1", *, token: int = 1, lasts_s: float = 15) -> Lease:
    """Return a lease that began at noon."""
    return Lease(holder=holder, token=token, deadline_at=NOON + timedelta(seconds=lasts_s))


def an_operation(
    name: str = "op-one", *, sandbox: str = "sb-one", deadline_s: float = 120, **changes: Any
) -> Operation:
    """Return a create that was just begun."""
    operation = Operation(
        id=OperationId(name),
        kind=OperationKind.CREATE,
        organisation_id=ORGANISATION,
        sandbox_id=SandboxId(sandbox),
        state=OperationState.RUNNING,
        step="place",
        created_at=NOON,
        deadline_at=NOON + timedelta(seconds=deadline_s),
        lease=a_lease(),
    )
    return replace(operation, **changes)


def a_transition(
    event: str = "created", *, detail: Mapping[str, Any] | None = None, **changes: Any
) -> Transition:
    """Return a log row of the usual sandbox."""
    transition = Transition(
        event=event,
        actor="test",
        reason="because",
        at=NOON,
        to_state="creating",
        organisation_id=ORGANISATION,
        sandbox_id=SandboxId("sb-one"),
        detail=detail or {},
    )
    return replace(transition, **changes)


def an_organisation(
    organisation_id: str = ORGANISATION, *, name: str = "first", quotas: Quotas | None = None
) -> Organisation:
    """Return a tenant without bounds."""
    return Organisation(
        id=OrganisationId(organisation_id),
        name=name,
        quotas=quotas or Quotas(),
        caps=Caps(),
        created_at=NOON,
    )
