"""Rows to values of the model and back; the export and the import of everything persisted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Row

from sandfleet.adapters.postgres.reading import Columns
from sandfleet.adapters.postgres.sealing import Sealer
from sandfleet.model.ids import (
    CheckpointId,
    KeyId,
    OperationId,
    OrganisationId,
    SandboxId,
    SnapshotId,
    WorkerId,
)
from sandfleet.model.operation import Lease, Operation, OperationKind, OperationState
from sandfleet.model.organisation import ApiKey, Caps, Organisation, Quotas, Scope
from sandfleet.model.resources import NOTHING, Resources
from sandfleet.model.sandbox import Sandbox, SandboxState, StopReason
from sandfleet.model.scaling import Scaling
from sandfleet.model.transition import Transition
from sandfleet.model.worker import Worker, WorkerState

Values = dict[str, Any]


def _optional(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)


def sandbox_values(sandbox: Sandbox, sealer: Sealer) -> Values:
    """Return the columns of a sandbox."""
    envs = msgspec.json.encode(dict(sandbox.envs)) if sandbox.envs else None
    return {
        "id": sandbox.id,
        "organisation_id": sandbox.organisation_id,
        "envs_sealed": sealer.seal(envs, context=f"envs of {sandbox.id}") if envs else None,
        **sandbox_changes(sandbox),
        "template": sandbox.template,
        "region": sandbox.region,
        "created_at": sandbox.created_at,
        "port": sandbox.port,
        "network_enabled": sandbox.network_enabled,
        "from_checkpoint_id": sandbox.from_checkpoint_id,
    }


def sandbox_changes(sandbox: Sandbox) -> Values:
    """Return the columns that may change in a sandbox's life."""
    return {
        "state": sandbox.state.value,
        "version": sandbox.version,
        "epoch": sandbox.epoch,
        "worker_id": sandbox.worker_id,
        "memory_mib": sandbox.resources.memory_mib,
        "cpu_count": sandbox.resources.cpu_count,
        "disk_mib": sandbox.resources.disk_mib,
        "changed_at": sandbox.changed_at,
        "timeout_s": sandbox.timeout_s,
        "metadata": dict(sandbox.metadata),
        "alias": sandbox.alias,
        "template_version": sandbox.template_version,
        "active_at": sandbox.active_at,
        "started_at": sandbox.started_at,
        "stopped_at": sandbox.stopped_at,
        "deadline_at": sandbox.deadline_at,
        "stop_reason": _optional(lambda reason: reason.value, sandbox.stop_reason),
        "error_message": sandbox.error_message,
        "snapshot_id": sandbox.snapshot_id,
        "cpu_percent": sandbox.cpu_percent,
        "tags": dict(sandbox.tags),
        "tags_changed_at": sandbox.tags_changed_at,
        "preview_digest": sandbox.preview_digest,
        "scaling_locked": sandbox.scaling.is_locked,
        "autoscale_enabled": sandbox.scaling.is_automatic,
        "autoscale_min_mib": sandbox.scaling.memory_min_mib,
        "autoscale_max_mib": sandbox.scaling.memory_max_mib,
    }


def sandbox_from(row: Columns, sealer: Sealer) -> Sandbox:
    """Return the sandbox of a row of `sandboxes`."""
    envs: Mapping[str, str] = {}
    if row["envs_sealed"] is not None:
        envs = msgspec.json.decode(sealer.open(row["envs_sealed"], context=f"envs of {row['id']}"))
    return Sandbox(
        id=SandboxId(row["id"]),
        organisation_id=OrganisationId(row["organisation_id"]),
        state=SandboxState(row["state"]),
        version=row["version"],
        epoch=row["epoch"],
        worker_id=_optional(WorkerId, row["worker_id"]),
        template=row["template"],
        resources=Resources(row["memory_mib"], row["cpu_count"], row["disk_mib"]),
        region=row["region"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        timeout_s=row["timeout_s"],
        port=row["port"],
        network_enabled=row["network_enabled"],
        envs=envs,
        metadata=row["metadata"],
        alias=row["alias"],
        template_version=row["template_version"],
        active_at=row["active_at"],
        started_at=row["started_at"],
        stopped_at=row["stopped_at"],
        deadline_at=row["deadline_at"],
        stop_reason=_optional(StopReason, row["stop_reason"]),
        error_message=row["error_message"],
        snapshot_id=_optional(SnapshotId, row["snapshot_id"]),
        from_checkpoint_id=_optional(CheckpointId, row["from_checkpoint_id"]),
        cpu_percent=row["cpu_percent"],
        tags=row["tags"],
        tags_changed_at=row["tags_changed_at"],
        preview_digest=row["preview_digest"],
        scaling=Scaling(
            is_locked=row["scaling_locked"],
            is_automatic=row["autoscale_enabled"],
            memory_min_mib=row["autoscale_min_mib"],
            memory_max_mib=row["autoscale_max_mib"],
        ),
    )


def operation_values(operation: Operation) -> Values:
    """Return the columns of an operation but those of its lease and deadline (the database's clock)."""
    return {
        "id": operation.id,
        "kind": operation.kind.value,
        "organisation_id": operation.organisation_id,
        "sandbox_id": operation.sandbox_id,
        "created_at": operation.created_at,
        "arguments": dict(operation.arguments),
        "cancel_requested": operation.cancel_requested,
        **operation_changes(operation),
    }


def operation_changes(operation: Operation) -> Values:
    """Return the columns that the holder of the lease writes."""
    return {
        "state": operation.state.value,
        "step": operation.step,
        "progress": dict(operation.progress),
        "error_code": operation.error_code,
        "error_message": operation.error_message,
        "finished_at": operation.finished_at,
    }


def operation_from(row: Row[Any]) -> Operation:
    """Return the operation of a row of `operations` with the column `is_overdue`."""
    lease = None
    if row.lease_holder is not None:
        lease = Lease(row.lease_holder, row.lease_token, row.lease_deadline_at)
    return Operation(
        id=OperationId(row.id),
        kind=OperationKind(row.kind),
        organisation_id=OrganisationId(row.organisation_id),
        sandbox_id=SandboxId(row.sandbox_id),
        state=OperationState(row.state),
        step=row.step,
        created_at=row.created_at,
        deadline_at=row.deadline_at,
        lease=lease,
        arguments=row.arguments,
        progress=row.progress,
        cancel_requested=row.cancel_requested,
        error_code=row.error_code,
        error_message=row.error_message,
        finished_at=row.finished_at,
        is_overdue=row.is_overdue,
    )


def transition_values(transition: Transition) -> Values:
    """Return the columns of a log row; its number is the database's."""
    return {
        "event": transition.event,
        "actor": transition.actor,
        "reason": transition.reason,
        "at": transition.at,
        "from_state": transition.from_state,
        "to_state": transition.to_state,
        "organisation_id": transition.organisation_id,
        "sandbox_id": transition.sandbox_id,
        "worker_id": transition.worker_id,
        "epoch": transition.epoch,
        "operation_id": transition.operation_id,
        "detail": dict(transition.detail),
    }


def transition_from(row: Row[Any]) -> Transition:
    """Return the log row."""
    return Transition(
        event=row.event,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
        from_state=row.from_state,
        to_state=row.to_state,
        organisation_id=_optional(OrganisationId, row.organisation_id),
        sandbox_id=_optional(SandboxId, row.sandbox_id),
        worker_id=_optional(WorkerId, row.worker_id),
        epoch=row.epoch,
        operation_id=_optional(OperationId, row.operation_id),
        detail=row.detail,
        id=row.id,
    )


def worker_values(worker: Worker) -> Values:
    """Return the columns that a worker says of itself."""
    return {
        "id": worker.id,
        "machine_id": worker.machine_id,
        "region": worker.region,
        "state": worker.state.value,
        "version": worker.version,
        "http_url": worker.http_url,
        "total_memory_mib": worker.total.memory_mib,
        "total_cpu": worker.total.cpu_count,
        "total_disk_mib": worker.total.disk_mib,
        "templates": dict(worker.templates),
        "worker_version": worker.worker_version,
        "accelerator": worker.accelerator,
        "cpu_model": worker.cpu_model,
        "memory_used_mib": worker.memory_used_mib,
        "cpu_percent": worker.cpu_percent,
        "disk_used_mib": worker.disk_used_mib,
        "host_memory_mib": worker.host_memory_mib,
        "host_cpus": worker.host_cpus,
        "host_disk_mib": worker.host_disk_mib,
        "ends_at": worker.ends_at,
        "ends_because": worker.ends_because,
        "instance_id": worker.instance_id,
        "sequence": worker.sequence,
    }


def worker_from(row: Row[Any]) -> Worker:
    """Return the worker of a row of `workers`, with the sums of its reservations if they were read."""
    committed = NOTHING
    if "committed_memory_mib" in row._fields:
        committed = Resources(
            int(row.committed_memory_mib), int(row.committed_cpu), int(row.committed_disk_mib)
        )
    return Worker(
        id=WorkerId(row.id),
        machine_id=row.machine_id,
        region=row.region,
        state=WorkerState(row.state),
        version=row.version,
        http_url=row.http_url,
        total=Resources(row.total_memory_mib, row.total_cpu, row.total_disk_mib),
        committed=committed,
        cordoned=row.cordoned,
        draining=row.draining,
        drain_reason=row.drain_reason,
        templates=row.templates,
        worker_version=row.worker_version,
        accelerator=row.accelerator,
        cpu_model=row.cpu_model,
        memory_used_mib=row.memory_used_mib,
        cpu_percent=row.cpu_percent,
        disk_used_mib=row.disk_used_mib,
        last_seen_at=row.last_seen_at,
        instance_id=row.instance_id,
        sequence=row.sequence,
        host_memory_mib=row.host_memory_mib,
        host_cpus=row.host_cpus,
        host_disk_mib=row.host_disk_mib,
        ends_at=row.ends_at,
        ends_because=row.ends_because,
        gone_because=row.gone_because,
    )


def organisation_values(organisation: Organisation) -> Values:
    """Return the columns of an organisation."""
    return {
        "id": organisation.id,
        "name": organisation.name,
        "created_at": organisation.created_at,
        **quota_values(organisation.quotas),
        **cap_values(organisation.caps),
    }


def quota_values(quotas: Quotas) -> Values:
    """Return the columns of quotas."""
    return {
        "quota_sandboxes": quotas.sandboxes,
        "quota_vcpu": quotas.vcpu,
        "quota_memory_mib": quotas.memory_mib,
        "quota_disk_mib": quotas.disk_mib,
        "quota_creates_per_s": quotas.creates_per_s,
    }


def cap_values(caps: Caps) -> Values:
    """Return the columns of caps."""
    return {"cap_memory_mib": caps.memory_mib, "cap_disk_mib": caps.disk_mib}


def quotas_from(row: Row[Any]) -> Quotas:
    """Return the quotas of a row of `organisations`."""
    return Quotas(
        row.quota_sandboxes,
        row.quota_vcpu,
        row.quota_memory_mib,
        row.quota_disk_mib,
        row.quota_creates_per_s,
    )


def organisation_from(row: Row[Any]) -> Organisation:
    """Return the organisation."""
    return Organisation(
        id=OrganisationId(row.id),
        name=row.name,
        quotas=quotas_from(row),
        caps=Caps(row.cap_memory_mib, row.cap_disk_mib),
        created_at=row.created_at,
    )


def key_values(key: ApiKey) -> Values:
    """Return the columns of a key but its digest."""
    return {
        "id": key.id,
        "organisation_id": key.organisation_id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": sorted(scope.value for scope in key.scopes),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


def key_from(row: Row[Any]) -> ApiKey:
    """Return the key."""
    return ApiKey(
        id=KeyId(row.id),
        organisation_id=OrganisationId(row.organisation_id),
        name=row.name,
        prefix=row.prefix,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
