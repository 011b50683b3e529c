"""`…/hibernate` and `…/wake`."""

from __future__ import annotations

from typing import cast

from sandfleet.controlplane.api.field_values import checked_timeout
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.api.sandbox_view import sandbox_body
from sandfleet.controlplane.api.sandboxes import store_timeout
from sandfleet.controlplane.api.verbs import begin_in_turn, not_running, outcome, resumed, verb_ids
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.http.idempotency import go_by
from sandfleet.controlplane.proxy.readiness import find_any_sandbox, find_sandbox
from sandfleet.controlplane.proxy.waking import open_wake
from sandfleet.model.errors import BadRequest, NotAvailable
from sandfleet.model.ids import OrganisationId, SnapshotId
from sandfleet.model.operation import Operation, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.wire.public_api import SandboxBody
from sandfleet.wire.public_saved import HibernatedBody, WakeSandbox

_ASLEEP = frozenset({SandboxState.HIBERNATING, SandboxState.HIBERNATED})
_TO_WAKE = frozenset({SandboxState.HIBERNATED, SandboxState.WAKING})
_ERRORS = ("not_found", "gone", "operation_in_progress", "invalid_argument", "not_ready")


def require_store(call: Call) -> None:
    """Refuse what needs an object store where there is none."""
    if call.edge.plane.settings.blob_store_url is None:
        raise NotAvailable("saving sandboxes is not available on this server: it has no object store")


async def hibernate_sandbox(call: Call) -> Answer:
    """Save a running sandbox and free its place."""
    return await _hibernated(call, owner=call.principal.organisation_id)


async def hibernate_any_sandbox(call: Call) -> Answer:
    """Do the same to a sandbox of any organisation."""
    sandbox = await find_any_sandbox(call.edge, call.values["id"])
    return await _hibernated(call, owner=sandbox.organisation_id)


async def _hibernated(call: Call, *, owner: OrganisationId) -> Answer:
    operation = await resumed(call) or await begin_in_turn(
        call,
        lambda sandbox: call.edge.lifecycle.hibernate(sandbox, ids=call.fixed, actor=call.principal.actor),
        check=lambda sandbox: _check_hibernate(call, sandbox),
        owner=owner,
    )
    operation = await outcome(call, operation)
    plane = call.edge.plane
    sandbox = await plane.stores.sandboxes.get(operation.organisation_id, operation.sandbox_id)
    snapshot = await plane.stores.snapshots.get(SnapshotId(operation.arguments["snapshot_id"]))
    is_done = operation.state is OperationState.SUCCEEDED
    return model_answer(
        200,
        HibernatedBody(
            sandbox_id_old=sandbox.id,
            sandbox_id=sandbox.id,
            status=(SandboxState.HIBERNATED if is_done else SandboxState.HIBERNATING).value,
            hibernation_key=snapshot.id,
            size_bytes=snapshot.size_bytes,
            region=sandbox.region,
            template=sandbox.template,
            hibernated_at=operation.finished_at,
        ),
    )


def _check_hibernate(call: Call, sandbox: Sandbox) -> None:
    require_store(call)
    if sandbox.state in _ASLEEP:
        raise not_running()


class _Woken(Exception):
    """Others woke the sandbox while this request waited for its turn."""


async def wake_sandbox(call: Call) -> Answer:
    """Bring a hibernated sandbox back; a wake that is under way is joined."""
    body = cast(WakeSandbox, call.model)
    was_asleep = False

    def check(sandbox: Sandbox) -> None:
        nonlocal was_asleep
        if body.timeout is not None:
            checked_timeout(body.timeout)
        if sandbox.state is SandboxState.RUNNING:
            raise _Woken if was_asleep else BadRequest("sandbox is not hibernated", code="not_hibernated")
        was_asleep = was_asleep or sandbox.state in _TO_WAKE

    async def begin(sandbox: Sandbox) -> Operation:
        return await call.edge.lifecycle.wake(
            sandbox, ids=call.fixed, actor=call.principal.actor, timeout_s=body.timeout
        )

    async def join(sandbox: Sandbox) -> Operation | None:
        operation = await open_wake(call.edge, sandbox)
        if operation is not None:
            await go_by(call, operation.id)
            if body.timeout is not None:
                await store_timeout(call, body.timeout)
        return operation

    try:
        # Its own first attempt may be done by now: that the sandbox runs is then what was asked for.
        operation = await resumed(call) or await begin_in_turn(call, begin, check=check, join=join)
        await outcome(call, operation)
    except _Woken:
        if body.timeout is not None:
            await store_timeout(call, body.timeout)
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    return model_answer(200, sandbox_body(call, sandbox))


_HIBERNATE_ERRORS = (
    *_ERRORS,
    *("not_running", "guest_disk_full", "agent_unresponsive", "disk_full", "not_available"),
)

ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/hibernate",),
        handler=hibernate_sandbox,
        summary="Save memory and disk of a running sandbox and free its place",
        access=Access.ORGANISATION,
        answers={200: HibernatedBody},
        errors=_HIBERNATE_ERRORS,
        changes=True,
        fixes=verb_ids,
        resumes=True,
    ),
    Endpoint(
        method="POST",
        paths=("/admin/sandboxes/{id}/hibernate",),
        handler=hibernate_any_sandbox,
        summary="The same for a sandbox of any organisation",
        access=Access.ADMIN,
        answers={200: HibernatedBody},
        errors=_HIBERNATE_ERRORS,
        changes=True,
        fixes=verb_ids,
        resumes=True,
    ),
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/wake",),
        handler=wake_sandbox,
        summary="Bring a hibernated sandbox back, on any worker",
        access=Access.ORGANISATION,
        body=WakeSandbox,
        answers={200: SandboxBody},
        errors=(*_ERRORS, "not_hibernated", "quota_exceeded", "no_capacity"),
        changes=True,
        fixes=verb_ids,
        resumes=True,
    ),
)
