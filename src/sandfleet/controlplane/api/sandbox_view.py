"""The sandbox object as clients see it."""

from __future__ import annotations

from datetime import timedelta

from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.answers import model_json
from sandfleet.controlplane.http.call import Call
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.wire.public_api import SandboxBody


def sandbox_json(call: Call, sandbox: Sandbox) -> bytes:
    """Return the object as it is sent."""
    edge, origin = call.edge, call.origin
    token = edge.tokens.sandbox_token(sandbox.organisation_id, sandbox.id)
    return edge.rendered.json_of(
        sandbox,
        token=token,
        origin=origin,
        render=lambda: model_json(_body(edge, sandbox, token=token, origin=origin)),
    )


def sandbox_body(call: Call, sandbox: Sandbox) -> SandboxBody:
    """Return the object with every key present."""
    token = call.edge.tokens.sandbox_token(sandbox.organisation_id, sandbox.id)
    return _body(call.edge, sandbox, token=token, origin=call.origin)


def _body(edge: Edge, sandbox: Sandbox, *, token: str, origin: str) -> SandboxBody:
    settings = edge.plane.settings
    is_placed = sandbox.worker_id is not None and not sandbox.is_terminal
    worker_id = sandbox.worker_id if is_placed else None
    idle_expires_at = None
    if sandbox.state is SandboxState.RUNNING and sandbox.timeout_s > 0:
        since = sandbox.active_at or sandbox.started_at or sandbox.changed_at
        idle_expires_at = since + timedelta(seconds=sandbox.timeout_s)
    return SandboxBody(
        sandbox_id=sandbox.id,
        status=sandbox.state.value,
        connect_url=origin,
        token=token,
        sandbox_domain=settings.sandbox_domain,
        template_id=sandbox.template,
        template=sandbox.template,
        region=sandbox.region if is_placed else None,
        worker_id=worker_id,
        machine_id=worker_id,
        client_id=sandbox.organisation_id,
        cpu_count=sandbox.resources.cpu_count,
        memory_mb=sandbox.resources.memory_mib,
        disk_mb=sandbox.resources.disk_mib,
        timeout=sandbox.timeout_s,
        idle_expires_at=idle_expires_at,
        started_at=sandbox.started_at or sandbox.created_at,
        stopped_at=sandbox.stopped_at,
        alias=sandbox.alias or "",
        metadata=dict(sandbox.metadata),
        tags=dict(sandbox.tags),
        tags_last_updated_at=sandbox.tags_changed_at,
        network_enabled=sandbox.network_enabled,
        port=sandbox.port,
        secret_store=None,
        from_checkpoint_id=sandbox.from_checkpoint_id,
        template_version=sandbox.template_version,
        golden_version=sandbox.template_version,
        patch_error=None,
        error_msg=sandbox.error_message,
        stop_reason=sandbox.stop_reason.value if sandbox.stop_reason else None,
    )
