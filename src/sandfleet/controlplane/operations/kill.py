"""Kill: the row is `stopped` in one transaction, from every state, and the VM follows.

It wins every race: whoever holds an older version of the row can write nothing any
more, whoever holds an open operation finds it asked to cancel, and the epoch is one
higher, so the worker refuses a start that is still on its way.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from sandfleet.controlplane.dependencies import ControlPlane, sandbox_topic
from sandfleet.controlplane.operations.destroy import destroy_operation
from sandfleet.controlplane.operations.records import log_row
from sandfleet.lifecycle.sandbox import SandboxEvent, advance
from sandfleet.model.errors import StaleVersion
from sandfleet.model.ids import operation_id
from sandfleet.model.operation import Operation
from sandfleet.model.sandbox import Sandbox, StopReason

EPOCHS_AHEAD = 2
"""One above what a restore under way may have ordered, which is one above the row's."""
_ATTEMPTS_MAX = 50


async def kill(
    plane: ControlPlane, sandbox: Sandbox, *, actor: str, begin: Callable[[Operation], None]
) -> Sandbox:
    """Return the sandbox as it stands dead; `begin` runs the operation that removes its VM."""
    for _ in range(_ATTEMPTS_MAX):
        if sandbox.is_terminal:
            return sandbox
        now = plane.clock.now()
        stopped = replace(
            advance(sandbox, SandboxEvent.KILL_REQUESTED, at=now),
            epoch=sandbox.epoch + EPOCHS_AHEAD,
            stopped_at=now,
            deadline_at=None,
            stop_reason=StopReason.USER_REQUESTED,
        )
        destroy = destroy_operation(
            plane,
            stopped,
            new_id=operation_id(secrets.token_bytes(16)),
            reason="killed",
        )
        log = log_row(
            sandbox,
            stopped,
            event=SandboxEvent.KILL_REQUESTED,
            actor=actor,
            reason="requested",
            operation=destroy,
        )
        try:
            await plane.stores.sandboxes.kill(stopped, destroy, log)
        except StaleVersion:
            sandbox = await plane.stores.sandboxes.get_any(sandbox.id)
            continue
        begin(destroy)
        await plane.routes.forget(sandbox.id)
        await plane.wake_ups.publish(sandbox_topic(sandbox.id))
        return stopped
    raise StaleVersion(f"sandbox {sandbox.id} is changing too fast")
