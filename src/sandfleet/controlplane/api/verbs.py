"""How a lifecycle verb is asked for: its turn among others, and how long its caller waits.

Rule 1: two verbs on one sandbox follow each other. The row's version decides who is first;
the other waits for its turn, up to `sandbox_wait_s`.
Rule 2: the operation belongs to nobody's request. Whoever asked waits for it until
`answer_by_s` after the request was read (`Prefer` sets another limit), then is told how it stands.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping

from sandfleet.controlplane.dependencies import sandbox_topic
from sandfleet.controlplane.http.call import Call
from sandfleet.controlplane.http.drain import shutting_down
from sandfleet.controlplane.http.idempotency import idempotency_key
from sandfleet.controlplane.http.operation_errors import operation_error
from sandfleet.controlplane.http.preference import preferred_wait_s
from sandfleet.controlplane.proxy.readiness import find_sandbox, gone
from sandfleet.model.errors import BadRequest, Conflict, NotFound, StaleVersion
from sandfleet.model.ids import OperationId, OrganisationId, operation_id, record_uuid, snapshot_id
from sandfleet.model.operation import BACKGROUND_KINDS, Operation, OperationState
from sandfleet.model.sandbox import Sandbox, SandboxState

SETTLED_STATES = frozenset({SandboxState.RUNNING, SandboxState.HIBERNATED})
"""States from which a verb may begin; all others pass by themselves."""
BEGIN_ATTEMPTS_MAX = 100
IN_PROGRESS = "operation_in_progress"


def verb_ids() -> Mapping[str, str]:
    """Return the ids that a verb goes by, the same when its request is resumed."""
    return {
        "operation_id": operation_id(secrets.token_bytes(16)),
        "snapshot_id": snapshot_id(secrets.token_bytes(16)),
        "checkpoint_id": record_uuid(secrets.token_bytes(16)),
    }


def not_running() -> BadRequest:
    """Return the error of a verb that needs a running sandbox."""
    return BadRequest("sandbox is not running", code="not_running")


def needs_running(sandbox: Sandbox) -> None:
    """Refuse a sandbox that is saved; every other state passes or ends."""
    if sandbox.state is SandboxState.HIBERNATED:
        raise not_running()


async def _joins_nothing(_sandbox: Sandbox) -> Operation | None:
    return None


async def begin_in_turn(
    call: Call,
    act: Callable[[Sandbox], Awaitable[Operation]],
    *,
    check: Callable[[Sandbox], None],
    join: Callable[[Sandbox], Awaitable[Operation | None]] = _joins_nothing,
    owner: OrganisationId | None = None,
) -> Operation:
    """Wait for the sandbox's turn, and begin; `check` refuses by what the row says, before any waiting.

    `join` may return what others have begun and what is taken instead.
    `owner`: whose sandbox it is, where that is not the caller.

    Another attempt of this very request may overtake this one, when it was held up for longer
    than its claim: whatever refuses it then, the operation that the other began is its own.
    """
    owner = owner or call.principal.organisation_id
    try:
        return await _begun_in_turn(call, act, check=check, join=join, owner=owner)
    except Exception:
        operation = await resumed(call)
        if operation is None:
            raise
        return operation


async def _begun_in_turn(
    call: Call,
    act: Callable[[Sandbox], Awaitable[Operation]],
    *,
    check: Callable[[Sandbox], None],
    join: Callable[[Sandbox], Awaitable[Operation | None]],
    owner: OrganisationId,
) -> Operation:
    clock, settings = call.edge.plane.clock, call.edge.plane.settings
    deadline = call.received_at + settings.sandbox_wait_s
    name = call.values["id"]
    sandbox = await find_sandbox(call.edge, owner, name)
    hints = call.edge.plane.wake_ups.subscribe(sandbox_topic(sandbox.id))
    for _ in range(BEGIN_ATTEMPTS_MAX):
        if sandbox.is_terminal:
            raise gone(sandbox)
        check(sandbox)
        if (joined := await join(sandbox)) is not None:
            return joined
        is_free = sandbox.state in SETTLED_STATES and not await _is_busy(call, sandbox)
        if is_free:
            try:
                return await act(sandbox)
            except StaleVersion:
                sandbox = await find_sandbox(call.edge, owner, name)
                continue
            except Conflict as error:  # something of before is cleared away behind the row
                if error.code != IN_PROGRESS:
                    raise
        if clock.monotonic() >= deadline:
            break
        if call.edge.drain.is_hurried:
            raise shutting_down()
        await anext(hints)
        sandbox = await find_sandbox(call.edge, owner, name)
    raise Conflict("another operation on the sandbox is in progress", code=IN_PROGRESS)


async def _is_busy(call: Call, sandbox: Sandbox) -> bool:
    """Read after the row: what began before is seen here, what begins later changes the row's version."""
    still_open = await call.edge.plane.stores.operations.open_for(sandbox.id)
    return any(one.kind not in BACKGROUND_KINDS for one in still_open)


async def resumed(call: Call) -> Operation | None:
    """Return the operation of the first attempt of this very request, if that came so far."""
    if idempotency_key(call) is None:
        return None
    try:
        return await call.edge.plane.stores.operations.get(OperationId(call.fixed["operation_id"]))
    except NotFound:
        return None


async def outcome(
    call: Call, operation: Operation, *, fails: bool = True, answer_by_s: float | None = None
) -> Operation:
    """Return the operation at its end, or as it stands when the caller has waited long enough.

    Raises what ended it, unless `fails` is false. `answer_by_s` stands for the setting of that name.
    """
    plane = call.edge.plane
    preferred = preferred_wait_s(call.headers.get("prefer"))
    limit_s = plane.settings.answer_by_s if answer_by_s is None else answer_by_s
    until = call.received_at + (limit_s if preferred is None else preferred)
    hints = plane.wake_ups.subscribe(sandbox_topic(operation.sandbox_id))
    operation = await plane.stores.operations.get(operation.id)
    while operation.state is OperationState.RUNNING:
        if plane.clock.monotonic() >= until or call.edge.drain.is_hurried:
            return operation
        await anext(hints)
        operation = await plane.stores.operations.get(operation.id)
    name = operation.kind.value
    seconds = plane.clock.monotonic() - call.received_at
    call.edge.metrics.operation_seconds.labels(name, operation.state.value).observe(seconds)
    if fails and operation.state is not OperationState.SUCCEEDED:
        sandbox = await plane.stores.sandboxes.get(operation.organisation_id, operation.sandbox_id)
        call.is_settled = True  # asked for again, it begins anew
        raise gone(sandbox) if sandbox.is_terminal else operation_error(operation)
    return operation
