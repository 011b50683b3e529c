"""`…/limits` and `…/scale`: the size of a running sandbox; `…/reboot` and `…/power-cycle`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from sandfleet.controlplane.api.field_values import INTEGER_MAX
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.api.verbs import begin_in_turn, needs_running, outcome, resumed, verb_ids
from sandfleet.controlplane.dependencies import NewSize
from sandfleet.controlplane.http.answers import Answer, model_answer, no_content
from sandfleet.controlplane.http.authentication import Access, Principal
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.operations.resize import TAKEN_OVER, limit_of
from sandfleet.controlplane.operations.resize_or_move import require_unlocked
from sandfleet.controlplane.proxy.readiness import find_any_sandbox, unknown_sandbox
from sandfleet.model.errors import BadRequest, SizeOutOfRange
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.planning.resizing import resized_memory
from sandfleet.planning.sizing import check_caps
from sandfleet.wire.public_sandbox import ChangeSize, SizeBody
from sandfleet.wire.worker_messages import EPOCH_HEADER

_ERRORS = ("not_found", "gone", "not_running", "operation_in_progress")
_SIZE_ERRORS = (
    *_ERRORS,
    "bad_request",
    "memory_out_of_range",
    "cpu_out_of_range",
    "plan_limit",
    "scaling_locked",
    "oom_floor",
    "quota_exceeded",
    "no_capacity",
)


async def change_size(call: Call) -> Answer:
    """Change memory and CPU, and answer when the guest has them or, by the 25-second rule, before."""
    wanted = wanted_size(call)
    operation = await resumed(call) or await begin_in_turn(
        call, lambda sandbox: _begin(call, sandbox, wanted), check=_may_change
    )
    operation = await outcome(call, operation)
    sandbox = await call.edge.plane.stores.sandboxes.get(operation.organisation_id, operation.sandbox_id)
    is_pending = operation.state is OperationState.RUNNING
    body = SizeBody(
        sandbox_id=sandbox.id,
        worker_id=sandbox.worker_id,
        memory_mb=operation.arguments["memory_mib"] if is_pending else sandbox.resources.memory_mib,
        cpu_percent=limit_of(sandbox, operation.arguments),
        migrated=operation.kind is OperationKind.MIGRATE,
        ok=True,
        autoscale_disabled=bool(operation.arguments.get(TAKEN_OVER)),
        pending=is_pending,
    )
    return model_answer(202 if is_pending else 200, body)


def _may_change(sandbox: Sandbox) -> None:
    needs_running(sandbox)
    require_unlocked(sandbox)


def wanted_size(call: Call) -> NewSize:
    """Return the size in the body; what is wrong with it comes before the sandbox is looked for."""
    body = cast(ChangeSize, call.model)
    limits = call.edge.plane.settings.size_limits
    if body.memory_mb is None:
        raise BadRequest("memoryMB is required")
    if not 0 < body.memory_mb <= INTEGER_MAX:
        raise BadRequest("memoryMB must be positive", code="memory_out_of_range")
    cpu_max = limits.cpu_max * 100
    if body.cpu_percent is not None and not 1 <= body.cpu_percent <= cpu_max:
        raise SizeOutOfRange(
            f"cpuPercent must be between 1 and {cpu_max}",
            code="cpu_out_of_range",
            details={"min": 1, "max": cpu_max},
        )
    return NewSize(resized_memory(limits, body.memory_mb), body.cpu_percent)


async def _begin(call: Call, sandbox: Sandbox, wanted: NewSize) -> Operation:
    organisation = await call.edge.plane.stores.organisations.get(sandbox.organisation_id)
    check_caps(replace(sandbox.resources, memory_mib=wanted.memory_mib), organisation.caps)
    return await call.edge.lifecycle.resize(
        sandbox, wanted, operation_id=call.fixed["operation_id"], actor=call.principal.actor
    )


async def change_own_size(call: Call) -> Answer:
    """Do the same for a guest that asked its worker: it must be the worker that has it, at this epoch."""
    sandbox = await find_any_sandbox(call.edge, call.values["id"])
    is_here = sandbox.worker_id == call.values["worker"]
    if not is_here or call.headers.get(EPOCH_HEADER) != str(sandbox.epoch):
        raise unknown_sandbox()
    call.caller = Principal(sandbox.organisation_id, frozenset())
    return await change_size(call)


async def reboot(call: Call) -> Answer:
    """Restart the guest, its programs ended cleanly first."""
    return await _restart(call, is_clean=True)


async def power_cycle(call: Call) -> Answer:
    """Replace the VM's process, whatever the guest does."""
    return await _restart(call, is_clean=False)


async def _restart(call: Call, *, is_clean: bool) -> Answer:
    operation = await resumed(call) or await begin_in_turn(
        call,
        lambda sandbox: call.edge.lifecycle.restart(
            sandbox,
            is_clean=is_clean,
            operation_id=call.fixed["operation_id"],
            actor=call.principal.actor,
        ),
        check=needs_running,
    )
    await outcome(call, operation)
    return no_content()


def _ids() -> Mapping[str, str]:
    return {"operation_id": verb_ids()["operation_id"]}


ENDPOINTS = (
    Endpoint(
        method="PUT",
        paths=(f"{SANDBOX}/limits",),
        handler=change_size,
        summary="Change memory and CPU of a running sandbox",
        access=Access.ORGANISATION,
        body=ChangeSize,
        answers={200: SizeBody, 202: SizeBody},
        errors=_SIZE_ERRORS,
        fixes=_ids,
    ),
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/scale",),
        handler=change_size,
        summary="Change the memory of a running sandbox",
        access=Access.ORGANISATION,
        body=ChangeSize,
        answers={200: SizeBody, 202: SizeBody},
        errors=_SIZE_ERRORS,
        changes=True,
        fixes=_ids,
        resumes=True,
    ),
    Endpoint(
        method="POST",
        paths=("/internal/workers/{worker}/sandboxes/{id}/scale",),
        handler=change_own_size,
        summary="Change the size of the sandbox that asked its worker",
        access=Access.WORKER,
        body=ChangeSize,
        answers={200: SizeBody, 202: SizeBody},
        errors=_SIZE_ERRORS,
        fixes=_ids,
    ),
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/reboot",),
        handler=reboot,
        summary="Restart the guest: the same disk, its processes lost",
        access=Access.ORGANISATION,
        answers={204: None},
        errors=(*_ERRORS, "agent_unresponsive"),
        changes=True,
        fixes=_ids,
        resumes=True,
    ),
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/power-cycle",),
        handler=power_cycle,
        summary="Replace the VM's process; works without the guest",
        access=Access.ORGANISATION,
        answers={204: None},
        errors=_ERRORS,
        changes=True,
        fixes=_ids,
        resumes=True,
    ),
)
