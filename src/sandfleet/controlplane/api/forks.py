"""`/api/sandboxes/from-checkpoint/{cp}` and `…/fork`: new sandboxes from a saved or a running one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from sandfleet.controlplane.api.checkpoints import find_checkpoint, until_ready, unusable
from sandfleet.controlplane.api.create_sandbox import await_arrival, check_labels, why_it_failed
from sandfleet.controlplane.api.field_values import checked_envs, checked_timeout, invalid, without_null
from sandfleet.controlplane.api.hibernation import require_store
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.api.sandbox_view import sandbox_body
from sandfleet.controlplane.api.verbs import begin_in_turn, needs_running, outcome, resumed, verb_ids
from sandfleet.controlplane.dependencies import CreateOrder, sandbox_topic
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter
from sandfleet.controlplane.http.operation_errors import operation_error
from sandfleet.controlplane.proxy.readiness import find_sandbox, gone
from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.errors import BadRequest, NotFound, SnapshotUnusable
from sandfleet.model.ids import OperationId, SandboxId, SnapshotId, operation_id, sandbox_id
from sandfleet.model.operation import Operation, OperationState
from sandfleet.model.resources import Resources
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.planning.sizing import check_caps, forked_resources
from sandfleet.wire.public_api import SandboxBody
from sandfleet.wire.public_saved import ForkedBody, ForkSandbox, MissingFork

COUNT_MAX = 100
READY_WAIT_S = 60.0
_NOT_ADMITTED = MissingFork(error="the quota is used up", code="quota_exceeded")


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a fork takes over from where it comes from."""

    source: Sandbox | Checkpoint
    snapshot_id: SnapshotId | None = None


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
    checkpoint = await find_checkpoint(call)
    body = cast(ForkSandbox, call.model)
    await _checked_order(call, body, checkpoint)  # a wrong value is told before any waiting
    checkpoint = await until_ready(call, checkpoint, seconds=READY_WAIT_S)
    order = await _checked_order(call, body, checkpoint)
    hints = call.edge.plane.wake_ups.subscribe(sandbox_topic(order.sandbox_id))
    sandbox = await await_arrival(call, await call.edge.lifecycle.create(order), hints)
    if sandbox.state is SandboxState.FAILED:
        operation = await call.edge.plane.stores.operations.get(order.operation_id)
        if operation.error_code == SnapshotUnusable.code:
            raise unusable(operation.error_message)
        raise await why_it_failed(call, order, sandbox)
    if sandbox.is_terminal:
        raise gone(sandbox)
    return model_answer(201, sandbox_body(call, sandbox))


async def _checked_order(call: Call, body: ForkSandbox, checkpoint: Checkpoint) -> CreateOrder:
    order = await _order(call, body, checkpoint, ids=("sandbox_id", "operation_id"))
    clock = call.edge.plane.clock
    return CreateOrder(
        **{name: getattr(order, name) for name in order.__dataclass_fields__ if name not in _OWN},
        snapshot_id=checkpoint.snapshot_id,
        from_checkpoint_id=checkpoint.id,
        requested_at=clock.now() - timedelta(seconds=clock.monotonic() - call.received_at),
    )


_OWN = frozenset({"snapshot_id", "from_checkpoint_id", "requested_at"})
