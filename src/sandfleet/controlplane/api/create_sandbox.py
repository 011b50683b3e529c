"""`POST /api/sandboxes`: validate, write the row, and wait for the machine."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import cast

from sandfleet.controlplane.api.field_values import (
    check_text,
    checked_envs,
    checked_timeout,
    invalid,
    map_bytes,
    without_null,
)
from sandfleet.controlplane.api.previews import asked_token
from sandfleet.controlplane.api.sandbox_view import sandbox_body
from sandfleet.controlplane.dependencies import CreateOrder, sandbox_topic
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.http.creation_rate import require_rate
from sandfleet.controlplane.http.operation_errors import operation_error
from sandfleet.controlplane.http.preference import preferred_wait_s
from sandfleet.controlplane.proxy.preview_gate import digest_of
from sandfleet.controlplane.proxy.readiness import gone
from sandfleet.model.errors import BadRequest, NotAvailable, NotFound, SandfleetError, Unavailable
from sandfleet.model.ids import OperationId, SandboxId, operation_id, sandbox_id
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.planning.sizing import check_caps, effective_resources
from sandfleet.wire.public_api import CreateSandbox, SandboxBody
from sandfleet.wire.public_sandbox import GatedSandboxBody

TEMPLATE_DEFAULT = "base"
METADATA_BYTES_MAX = 64 * 1024
ALIAS_LENGTH_MAX = 128
QUEUE_END_GRACE_S = 5.0
"""How long after the queue's time its 503 is waited for, when the store is slow to write the end."""
_BASE_NAMES = frozenset({"", "default", "ubuntu", TEMPLATE_DEFAULT})


def _ids() -> Mapping[str, str]:
    return {
        "sandbox_id": sandbox_id(secrets.token_bytes(16)),
        "operation_id": operation_id(secrets.token_bytes(16)),
    }


async def create_sandbox(call: Call) -> Answer:
    """Create a sandbox and answer when it runs, or by the 25-second rule before."""
    body = cast(CreateSandbox, call.model)
    hints = call.edge.plane.wake_ups.subscribe(sandbox_topic(SandboxId(call.fixed["sandbox_id"])))
    sandbox = await begun(call) or await call.edge.lifecycle.create(await _order(call, body))
    sandbox = await await_arrival(call, sandbox, hints)
    seconds = call.edge.plane.clock.monotonic() - call.received_at
    call.edge.metrics.operation_seconds.labels("create", sandbox.state.value).observe(seconds)
    if sandbox.state is SandboxState.FAILED:
        raise await why_it_failed(call, sandbox)
    if sandbox.is_terminal:
        raise gone(sandbox)
    seen = sandbox_body(call, sandbox)
    token = asked_token(call, body.preview_auth, sandbox_id=sandbox.id)
    if token is None:
        return model_answer(201, seen)
    return model_answer(201, GatedSandboxBody(**seen.model_dump(), preview_auth_token=token))


async def begun(call: Call) -> Sandbox | None:
    """Return what an earlier attempt of this very request has created, if it came so far."""
    if not call.is_resumed:
        return None
    ids = SandboxId(call.fixed["sandbox_id"]), OperationId(call.fixed["operation_id"])
    try:
        return await call.edge.lifecycle.created(*ids)
    except NotFound:
        return None


async def _order(call: Call, body: CreateSandbox) -> CreateOrder:
    settings = call.edge.plane.settings
    _refuse_later_features(body)
    resources = effective_resources(
        settings.size_limits, memory_mib=body.memory_mb, cpu_count=body.cpu_count, disk_mib=body.disk_mb
    )
    metadata = without_null(body.metadata)
    check_labels(body.alias, metadata)
    if body.port is not None and not 1 <= body.port <= 65535:
        raise invalid("port must be between 1 and 65535")
    envs = checked_envs(body.envs)
    token = asked_token(call, body.preview_auth, sandbox_id=call.fixed["sandbox_id"])
    timeout_s = checked_timeout(body.timeout or 0)
    template = await _template(call, body.template_id)
    organisation = await call.edge.plane.stores.organisations.get(call.principal.organisation_id)
    check_caps(resources, organisation.caps)
    await require_rate(call, organisation)
    clock = call.edge.plane.clock
    return CreateOrder(
        sandbox_id=SandboxId(call.fixed["sandbox_id"]),
        operation_id=OperationId(call.fixed["operation_id"]),
        organisation_id=organisation.id,
        resources=resources,
        template=template,
        region=await _region(call),
        actor=call.principal.actor,
        timeout_s=timeout_s,
        port=80 if body.port is None else body.port,
        network_enabled=body.network_enabled is not False,
        envs=envs,
        metadata=metadata,
        alias=body.alias,
        preview_digest=None if token is None else digest_of(token),
        requested_at=clock.now() - timedelta(seconds=clock.monotonic() - call.received_at),
    )


def _refuse_later_features(body: CreateSandbox) -> None:
    if body.image is not None and body.snapshot:
        raise invalid("image and snapshot exclude each other")
    if body.snapshot:
        raise BadRequest(f'snapshot "{body.snapshot[:200]}" not found', code="unknown_snapshot")
    if body.secret_store:
        raise BadRequest(f'secret store "{body.secret_store[:200]}" not found', code="unknown_secret_store")
    for name, value in (
        ("image", body.image),
        ("webhooks", body.webhooks),
    ):
        if value:
            raise NotAvailable(f"{name} is not available on this server")


def check_labels(alias: str | None, metadata: Mapping[str, str]) -> None:
    """Refuse an alias or metadata that cannot be kept."""
    if alias is not None:
        check_text("alias", alias)
        if len(alias) > ALIAS_LENGTH_MAX:
            raise invalid(f"alias must have at most {ALIAS_LENGTH_MAX} characters")
    for name, value in metadata.items():
        check_text("metadata", name + value)
    if map_bytes(metadata) > METADATA_BYTES_MAX:
        raise invalid(f"metadata must not have more than {METADATA_BYTES_MAX} bytes in all")


async def _template(call: Call, name: str | None) -> str:
    if name is None or name in _BASE_NAMES:
        return TEMPLATE_DEFAULT
    workers = await call.edge.plane.stores.workers.list()
    if any(name in worker.templates for worker in workers):
        return name
    raise BadRequest(f'template "{name[:200]}" not found', code="unknown_template")


async def _region(call: Call) -> str:
    default = call.edge.plane.settings.region
    wanted = call.headers.get("x-region") or call.headers.get("fly-region")
    if not wanted or wanted == default:
        return default
    workers = await call.edge.plane.stores.workers.list()
    return wanted if any(worker.region == wanted for worker in workers) else default


async def await_arrival(call: Call, sandbox: Sandbox, hints: AsyncIterator[None]) -> Sandbox:
    """Wait until the sandbox leaves `creating`, but not longer than the client may wait."""
    settings, clock = call.edge.plane.settings, call.edge.plane.clock
    preferred = preferred_wait_s(call.headers.get("prefer"))
    until = call.received_at + (settings.answer_by_s if preferred is None else preferred)
    queue_ends = call.received_at + settings.creation_queue_s + QUEUE_END_GRACE_S
    while sandbox.state is SandboxState.CREATING:
        is_queued = preferred is None and sandbox.worker_id is None
        seconds = (max(until, queue_ends) if is_queued else until) - clock.monotonic()
        if seconds <= 0 or call.edge.drain.is_hurried:
            break
        # A hint comes about once a second at the latest, so the loop is never late by more.
        await anext(hints)
        sandbox = await call.edge.plane.stores.sandboxes.get(sandbox.organisation_id, sandbox.id)
    return sandbox


async def why_it_failed(call: Call, sandbox: Sandbox) -> SandfleetError:
    """Return the error of a create that ended `failed`; asked for again, it begins anew."""
    operation = await call.edge.plane.stores.operations.get(OperationId(call.fixed["operation_id"]))
    call.is_settled = True
    message = operation.error_message or sandbox.error_message or "the sandbox could not be created"
    error = operation_error(operation)
    if isinstance(error, Unavailable):  # no room, or no answer in time: asked again, it may be there
        return error
    return SandfleetError(f"the sandbox could not be created: {message}")


ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=("/api/sandboxes",),
        handler=create_sandbox,
        summary="Create a sandbox; with `Prefer: respond-async` without waiting for it",
        access=Access.ORGANISATION,
        body=CreateSandbox,
        answers={201: SandboxBody},
        errors=(
            "invalid_argument",
            "memory_out_of_range",
            "disk_out_of_range",
            "cpu_out_of_range",
            "unknown_template",
            "unknown_snapshot",
            "unknown_secret_store",
            "plan_limit",
            "disk_limit",
            "gone",
            "quota_exceeded",
            "rate_limited",
            "no_capacity",
            "not_ready",
            "not_available",
        ),
        changes=True,
        fixes=_ids,
        resumes=True,
    ),
)
