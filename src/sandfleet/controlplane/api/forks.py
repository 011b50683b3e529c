"""`/api/sandboxes/from-checkpoint/{cp}` and `…/fork`: new sandboxes from a saved or a running one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from sandfleet.controlplane.api.checkpoints import find_checkpoint, until_ready, unusable
from sandfleet.controlplane.api.create_sandbox import await_arrival, begun, check_labels, why_it_failed
from sandfleet.controlplane.api.field_values import checked_envs, checked_timeout, invalid, without_null
from sandfleet.controlplane.api.hibernation import require_store
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.api.sandbox_view import sandbox_body
from sandfleet.controlplane.api.verbs import begin_in_turn, needs_running, outcome, resumed, verb_ids
from sandfleet.controlplane.dependencies import CreateOrder, sandbox_topic
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter
from sandfleet.controlplane.http.creation_rate import require_rate
from sandfleet.controlplane.http.operation_errors import operation_error
from sandfleet.controlplane.proxy.readiness import gone
from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.errors import BadRequest, NotFound, SnapshotUnusable
from sandfleet.model.ids import OperationId, SandboxId, operation_id, sandbox_id
from sandfleet.model.operation import Operation
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.planning.sizing import check_caps, forked_resources
from sandfleet.wire.public_api import SandboxBody
from sandfleet.wire.public_saved import ForkedBody, ForkSandbox, MissingFork

COUNT_MAX = 100
READY_WAIT_S = 60.0
_YES = frozenset({"true", "1", "yes"})
_NOT_ADMITTED = MissingFork(error="the quota is used up", code="quota_exceeded")


def _ids() -> Mapping[str, str]:
    return {
        "sandbox_id": sandbox_id(secrets.token_bytes(16)),
        "operation_id": operation_id(secrets.token_bytes(16)),
    }


def _fork_ids() -> Mapping[str, str]:
    """Return the ids of a fork and of as many sandboxes as it may have."""
    ids = dict(verb_ids())
    for number in range(COUNT_MAX):
        ids[f"sandbox_{number}"] = sandbox_id(secrets.token_bytes(16))
        ids[f"create_{number}"] = operation_id(secrets.token_bytes(16))
    return ids


async def create_from_checkpoint(call: Call) -> Answer:
    """Create a sandbox from a checkpoint and answer when it runs, or by the 25-second rule before."""
    hints = call.edge.plane.wake_ups.subscribe(sandbox_topic(SandboxId(call.fixed["sandbox_id"])))
    sandbox = await begun(call) or await call.edge.lifecycle.create(await _checkpoint_order(call))
    sandbox = await await_arrival(call, sandbox, hints)
    if sandbox.state is SandboxState.FAILED:
        operation = await call.edge.plane.stores.operations.get(OperationId(call.fixed["operation_id"]))
        if operation.error_code == SnapshotUnusable.code:
            raise unusable(operation.error_message)
        raise await why_it_failed(call, sandbox)
    if sandbox.is_terminal:
        raise gone(sandbox)
    return model_answer(201, sandbox_body(call, sandbox))


async def _checkpoint_order(call: Call) -> CreateOrder:
    """Return the order, once the checkpoint is ready."""
    checkpoint = await find_checkpoint(call)
    ids = (SandboxId(call.fixed["sandbox_id"]), OperationId(call.fixed["operation_id"]))
    order = await _order(call, checkpoint, ids)  # a wrong value is told before any waiting
    checkpoint = await until_ready(call, checkpoint, seconds=READY_WAIT_S)
    await _count_creates(call, 1)
    return replace(
        order,
        snapshot_id=checkpoint.snapshot_id,
        from_checkpoint_id=checkpoint.id,
        cpu_percent=await _kept_limit(call, checkpoint, order.resources),
    )


async def fork_sandbox(call: Call) -> Answer:
    """Capture a running sandbox once and start `count` others from it; all or none unless `partial`."""
    is_partial = call.query.get("partial", "").lower() in _YES

    def check(sandbox: Sandbox) -> None:
        require_store(call)
        _count(call)
        needs_running(sandbox)

    is_counted = False

    async def begin(sandbox: Sandbox) -> Operation:
        nonlocal is_counted
        orders = [await _order(call, sandbox, _numbered(call, number)) for number in range(_count(call))]
        if not is_counted:  # a turn that was lost to another verb begins again
            await _count_creates(call, len(orders))
            is_counted = True
        operation, _ = await call.edge.lifecycle.fork(sandbox, orders, ids=call.fixed, is_partial=is_partial)
        return operation

    operation = await resumed(call) or await begin_in_turn(call, begin, check=check)
    operation = await outcome(call, operation)
    made, missing = await _made(call, operation)
    answer = ForkedBody(
        parent_id=operation.sandbox_id,
        pause_ms=operation.progress.get("pause_ms", 0.0),
        sandboxes=[sandbox_body(call, row) for row in made],
        failed=missing if is_partial else None,
    )
    return model_answer(201, answer)


async def _count_creates(call: Call, count: int) -> None:
    organisation = await call.edge.plane.stores.organisations.get(call.principal.organisation_id)
    await require_rate(call, organisation, count=count)


async def _kept_limit(call: Call, checkpoint: Checkpoint, size: Resources) -> int | None:
    """Return the CPU limit that the checkpoint's guest had, unless the fork gets more vCPUs."""
    if checkpoint.snapshot_id is None or size.cpu_count > checkpoint.resources.cpu_count:
        return None
    manifest = (await call.edge.plane.stores.snapshots.get(checkpoint.snapshot_id)).manifest
    limit: int | None = manifest.get("cpu_percent")
    return limit


def _count(call: Call) -> int:
    text = call.query.get("count", "1")
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= COUNT_MAX):
        raise invalid(f"count must be between 1 and {COUNT_MAX}")
    return int(text)


def _numbered(call: Call, number: int) -> tuple[SandboxId, OperationId]:
    return SandboxId(call.fixed[f"sandbox_{number}"]), OperationId(call.fixed[f"create_{number}"])


async def _made(call: Call, operation: Operation) -> tuple[list[Sandbox], list[MissingFork]]:
    """Return the forks that there are, and why the others are not."""
    made: list[Sandbox] = []
    missing: list[MissingFork] = []
    for fork_id, create_id in operation.arguments["forks"]:
        try:
            row = await call.edge.plane.stores.sandboxes.get(operation.organisation_id, SandboxId(fork_id))
        except NotFound:
            missing.append(_NOT_ADMITTED)
            continue
        if row.state is SandboxState.FAILED:
            create = await call.edge.plane.stores.operations.get(OperationId(create_id))
            error = operation_error(create)
            missing.append(MissingFork(error=error.message, code=error.code))
        else:
            made.append(row)
    return made, missing


async def _order(call: Call, source: Sandbox | Checkpoint, ids: tuple[SandboxId, OperationId]) -> CreateOrder:
    """Return the order of one fork: what its source has, overridden by what was asked for."""
    body = cast(ForkSandbox, call.model)
    plane = call.edge.plane
    if body.secret_store:
        raise BadRequest(f'secret store "{body.secret_store[:200]}" not found', code="unknown_secret_store")
    metadata = {**source.metadata, **without_null(body.metadata)}
    check_labels(body.alias, metadata)
    resources = forked_resources(
        source.resources,
        plane.settings.size_limits,
        memory_mib=body.memory_mb,
        cpu_count=body.cpu_count,
        disk_mib=body.disk_mb,
    )
    organisation = await plane.stores.organisations.get(call.principal.organisation_id)
    check_caps(resources, organisation.caps)
    is_faster = resources.cpu_count > source.resources.cpu_count
    return CreateOrder(
        sandbox_id=ids[0],
        operation_id=ids[1],
        organisation_id=organisation.id,
        resources=resources,
        template=source.template,
        template_version=source.template_version,
        region=source.region,
        actor=call.principal.actor,
        timeout_s=checked_timeout(body.timeout or 0),
        port=source.port,
        network_enabled=source.network_enabled,
        envs={**source.envs, **checked_envs(body.envs)},
        metadata=metadata,
        alias=body.alias,
        cpu_percent=source.cpu_percent if isinstance(source, Sandbox) and not is_faster else None,
    )


_ERRORS = (
    "not_found",
    "gone",
    "invalid_argument",
    "memory_out_of_range",
    "disk_out_of_range",
    "cpu_out_of_range",
    "unknown_secret_store",
    "plan_limit",
    "disk_limit",
    "quota_exceeded",
    "rate_limited",
    "no_capacity",
)

ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=("/api/sandboxes/from-checkpoint/{cp}",),
        handler=create_from_checkpoint,
        summary="Create a sandbox from a checkpoint, with an identity of its own",
        access=Access.ORGANISATION,
        body=ForkSandbox,
        answers={201: SandboxBody},
        errors=(*_ERRORS, "checkpoint_failed", "checkpoint_not_ready"),
        changes=True,
        fixes=_ids,
        resumes=True,
    ),
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/fork",),
        handler=fork_sandbox,
        summary="Start others from a running sandbox, which goes on",
        access=Access.ORGANISATION,
        body=ForkSandbox,
        answers={201: ForkedBody},
        errors=(
            *_ERRORS,
            "not_running",
            "operation_in_progress",
            "guest_disk_full",
            "agent_unresponsive",
            "disk_full",
            "not_ready",
            "not_available",
        ),
        parameters=(
            Parameter(
                "count",
                "how many",
                schema={"type": "integer", "minimum": 1, "maximum": COUNT_MAX, "default": 1},
            ),
            Parameter("partial", "`true`: accept fewer", schema={"type": "boolean", "default": False}),
        ),
        changes=True,
        fixes=_fork_ids,
        resumes=True,
    ),
)
