"""The wake that a call on a hibernated sandbox sets off. Calls at the same time share one wake."""

from __future__ import annotations

from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.operation_errors import operation_error
from sandfleet.model.errors import StaleVersion
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState

ACTOR = "data-plane"
_COMING = frozenset({OperationKind.WAKE, OperationKind.RECOVER})


async def awaken(edge: Edge, sandbox: Sandbox, wake: Operation | None) -> Operation | None:
    """Have a wake under way if the sandbox needs one, and return it; raise why the one before failed.

    `wake` is what this returned for the same call before.
    """
    if sandbox.state is SandboxState.WAKING and wake is None:
        return await open_wake(edge, sandbox)
    if sandbox.state is not SandboxState.HIBERNATED:
        return wake
    if wake is not None:
        wake = await edge.plane.stores.operations.get(wake.id)
        if wake.state is OperationState.FAILED:
            raise operation_error(wake)
    # On its own, so that a caller whose time is over leaves no operation without its runner.
    begun = edge.background.start(edge.lifecycle.wake(sandbox, actor=ACTOR), name=f"wake {sandbox.id}")
    try:
        return await begun
    except StaleVersion:
        return None  # somebody else was first; the row says what they did


async def open_wake(edge: Edge, sandbox: Sandbox) -> Operation | None:
    """Return the wake that is under way, if there is one."""
    if sandbox.state is not SandboxState.WAKING:
        return None
    still_open = await edge.plane.stores.operations.open_for(sandbox.id)
    return next((one for one in still_open if one.kind in _COMING), None)
