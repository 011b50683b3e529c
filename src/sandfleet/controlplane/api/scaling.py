"""`…/autoscale` and `…/scaling-lock`: who may change the size of a sandbox, settings that wake nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from sandfleet.controlplane.api.field_values import INTEGER_MAX, invalid
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.operations.records import log_row
from sandfleet.controlplane.operations.resize_or_move import require_unlocked
from sandfleet.controlplane.proxy.readiness import find_sandbox, gone
from sandfleet.model.errors import BadRequest, NotReady, StaleVersion
from sandfleet.model.organisation import Caps
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.scaling import Scaling
from sandfleet.planning.autoscale import bounds_of
from sandfleet.planning.resizing import resized_memory
from sandfleet.planning.sizing import check_caps
from sandfleet.wire.public_sandbox import (
    AutoscaleBody,
    ChangeAutoscale,
    ChangeScalingLock,
    ScalingLockBody,
)

SAVE_ATTEMPTS_MAX = 20


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for, rounded as sizes are; None keeps what was."""

    is_automatic: bool
    least_mib: int | None
    most_mib: int | None


async def get_autoscale(call: Call) -> Answer:
    """Return it, in every status."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    return _autoscale_answer(call, sandbox, await _caps(call))


async def put_autoscale(call: Call) -> Answer:
    """Turn it on or off; what is absent of the bounds stays."""
    asked = _asked(call)
    caps = await _caps(call)

    def change(sandbox: Sandbox) -> Scaling:
        if asked.is_automatic:
            require_unlocked(sandbox)
        if asked.most_mib is not None:
            check_caps(replace(sandbox.resources, memory_mib=asked.most_mib), Caps(caps.memory_mib))
        scaling = replace(
            sandbox.scaling,
            is_automatic=asked.is_automatic,
            memory_min_mib=asked.least_mib or sandbox.scaling.memory_min_mib,
            memory_max_mib=asked.most_mib or sandbox.scaling.memory_max_mib,
        )
        _check_order(scaling.memory_min_mib, scaling.memory_max_mib)
        return scaling

    sandbox = await _changed(call, change, event="autoscale_on" if asked.is_automatic else "autoscale_off")
    return _autoscale_answer(call, sandbox, caps)


async def get_lock(call: Call) -> Answer:
    """Return it, in every status."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    return _lock_answer(sandbox)


async def put_lock(call: Call) -> Answer:
    """Lock the size, which ends the fleet's own changes; or unlock it, which does not begin them again."""
    locked = cast(ChangeScalingLock, call.model).locked

    def change(sandbox: Sandbox) -> Scaling:
        if locked is None:
            raise BadRequest("locked is required")
        is_automatic = sandbox.scaling.is_automatic and not locked
        return replace(sandbox.scaling, is_locked=locked, is_automatic=is_automatic)

    return _lock_answer(
        await _changed(call, change, event="scaling_locked" if locked else "scaling_unlocked")
    )


def _asked(call: Call) -> _Asked:
    """Return what is in the body; what is wrong with it comes before the sandbox is looked for."""
    body = cast(ChangeAutoscale, call.model)
    if body.enabled is None:
        raise BadRequest("enabled is required")
    least = _memory(call, "minMemoryMB", body.min_memory_mb)
    most = _memory(call, "maxMemoryMB", body.max_memory_mb)
    _check_order(least, most)
    return _Asked(body.enabled, least, most)


def _memory(call: Call, name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if not 0 < value <= INTEGER_MAX:
        raise BadRequest(f"{name} must be positive", code="memory_out_of_range")
    return resized_memory(call.edge.plane.settings.size_limits, value)


def _check_order(least_mib: int | None, most_mib: int | None) -> None:
    if least_mib is not None and most_mib is not None and least_mib > most_mib:
        raise invalid(f"minMemoryMB of {least_mib} is above maxMemoryMB of {most_mib}")


async def _changed(call: Call, change: Callable[[Sandbox], Scaling], *, event: str) -> Sandbox:
    """Write the settings with their log row, over whatever else changes the row meanwhile."""
    plane = call.edge.plane
    for _ in range(SAVE_ATTEMPTS_MAX):
        before = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
        if before.is_terminal:
            raise gone(before)
        scaling = change(before)
        if scaling == before.scaling:
            return before
        after = replace(before, scaling=scaling, version=before.version + 1, changed_at=plane.clock.now())
        log = log_row(before, after, event=event, actor=call.principal.actor, reason=_told(scaling))
        try:
            await plane.stores.sandboxes.save(after, log)
        except StaleVersion:
            continue
        return after
    raise NotReady("the sandbox is changing too fast")


def _told(scaling: Scaling) -> str:
    if not scaling.is_automatic:
        return "requested"
    least, most = scaling.memory_min_mib or "the least", scaling.memory_max_mib or "the most"
    return f"requested: between {least} and {most} MiB"


async def _caps(call: Call) -> Caps:
    return (await call.edge.plane.stores.organisations.get(call.principal.organisation_id)).caps


def _autoscale_answer(call: Call, sandbox: Sandbox, caps: Caps) -> Answer:
    bounds = bounds_of(sandbox.scaling, call.edge.plane.settings.size_limits, caps)
    body = AutoscaleBody(
        sandbox_id=sandbox.id,
        enabled=sandbox.scaling.is_automatic,
        min_memory_mb=bounds.memory_min_mib,
        max_memory_mb=bounds.memory_max_mib,
    )
    return model_answer(200, body)


def _lock_answer(sandbox: Sandbox) -> Answer:
    return model_answer(200, ScalingLockBody(sandbox_id=sandbox.id, locked=sandbox.scaling.is_locked))


_AUTOSCALE, _LOCK = f"{SANDBOX}/autoscale", f"{SANDBOX}/scaling-lock"
_ERRORS = ("not_found", "gone", "bad_request", "not_ready")

ENDPOINTS = (
    Endpoint(
        method="GET",
        paths=(_AUTOSCALE,),
        handler=get_autoscale,
        summary="Whether the memory follows the use, and between which sizes",
        access=Access.ORGANISATION,
        answers={200: AutoscaleBody},
        errors=("not_found",),
    ),
    Endpoint(
        method="PUT",
        paths=(_AUTOSCALE,),
        handler=put_autoscale,
        summary="Have the memory follow the use, or not",
        access=Access.ORGANISATION,
        body=ChangeAutoscale,
        answers={200: AutoscaleBody},
        errors=(*_ERRORS, "memory_out_of_range", "invalid_argument", "plan_limit", "scaling_locked"),
    ),
    Endpoint(
        method="GET",
        paths=(_LOCK,),
        handler=get_lock,
        summary="Whether the size is locked",
        access=Access.ORGANISATION,
        answers={200: ScalingLockBody},
        errors=("not_found",),
    ),
    Endpoint(
        method="PUT",
        paths=(_LOCK,),
        handler=put_lock,
        summary="Lock the size for everybody, or unlock it",
        access=Access.ORGANISATION,
        body=ChangeScalingLock,
        answers={200: ScalingLockBody},
        errors=_ERRORS,
    ),
)
