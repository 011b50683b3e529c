"""`/admin/rollouts`: a new version for all workers that the fleet launches."""

from __future__ import annotations

import re
from typing import cast

from sandfleet.controlplane.api.field_values import invalid
from sandfleet.controlplane.http.answers import Answer, list_answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.model.errors import BadRequest, NotAvailable, NotFound, NotReady
from sandfleet.model.launch import is_version
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.membership import usual_version
from sandfleet.ports.rollout_store import Proof, StoredRollout
from sandfleet.wire.public_rollouts import BeginRollout, RolloutBody, RolloutStepBody, RolloutWorkerBody

_ROLLOUTS = "/admin/rollouts"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


async def begin_rollout(call: Call) -> Answer:
    """Register the version and begin; asked for again while it is under way it is the same roll-out."""
    version = cast(BeginRollout, call.model).version
    if version is None:
        raise BadRequest("version is required")
    if not is_version(version):
        raise invalid("version must be at most 100 of A-Z a-z 0-9 . _ + -, and begin with a letter or digit")
    plane = call.edge.plane
    if plane.capacity is None:
        raise NotAvailable("this fleet launches no machines, so it replaces none: see the setting `capacity`")
    before = await plane.stores.rollouts.current()
    workers = await plane.stores.workers.list()
    previous = usual_version(workers) if before is None else before.rollout.target
    if not previous:
        raise NotReady("no worker has reported yet, so it is not known which version to go back to")
    begun = await plane.stores.rollouts.begin(
        version, previous, actor=call.principal.actor, at=plane.clock.now()
    )
    return model_answer(201, await _detailed(call, begun))


async def list_rollouts(call: Call) -> Answer:
    """Return the newest, newest first."""
    return list_answer([_body(one) for one in await call.edge.plane.stores.rollouts.list()])


async def show_rollout(call: Call) -> Answer:
    """Return one; of the newest with all workers."""
    number, found = _number(call), await call.edge.plane.stores.rollouts.list()
    if not found or number > found[0].number:
        raise NotFound(f"roll-out {number} not found")
    if number == found[0].number:
        return model_answer(200, await _detailed(call, found[0]))
    one = next((one for one in found if one.number == number), None)
    if one is None:
        raise NotFound(f"roll-out {number} not found")
    return model_answer(200, _body(one))


async def cancel_rollout(call: Call) -> Answer:
    """Turn it round: the workers of the new version are replaced by the version before."""
    plane = call.edge.plane
    cancelled = await plane.stores.rollouts.cancel(
        _number(call), actor=call.principal.actor, at=plane.clock.now()
    )
    return model_answer(200, await _detailed(call, cancelled))


def _number(call: Call) -> int:
    text = call.values["rollout"]
    if _NUMBER.fullmatch(text) is None:
        raise NotFound(f"roll-out {text[:20]} not found")
    return int(text)


async def _detailed(call: Call, stored: StoredRollout) -> RolloutBody:
    stores = call.edge.plane.stores
    proofs = await stores.rollouts.proofs()
    workers = [one for one in await stores.workers.list() if one.state is not WorkerState.GONE]
    counts = {one.id: len(await stores.sandboxes.on_worker(one.id)) for one in workers}
    shown = [_worker_body(one, proofs.get(one.id), counts[one.id]) for one in workers]
    return _body(stored).model_copy(update={"workers": shown})


def _body(stored: StoredRollout) -> RolloutBody:
    rollout = stored.rollout
    return RolloutBody(
        number=stored.number,
        version=rollout.version,
        previous=rollout.previous,
        stage=rollout.stage.value,
        under_way=rollout.is_under_way,
        reason=rollout.reason,
        said=stored.said,
        requested_by=stored.actor,
        begun_at=rollout.begun_at,
        stage_at=rollout.stage_at,
        steps=[
            RolloutStepBody(stage=one.stage.value, at=one.at, actor=one.actor, reason=one.reason)
            for one in stored.steps
        ],
    )


def _worker_body(worker: Worker, proof: Proof | None, sandboxes: int) -> RolloutWorkerBody:
    return RolloutWorkerBody(
        worker_id=worker.id,
        version=worker.worker_version,
        state=worker.state.value,
        draining=worker.draining,
        sandboxes=sandboxes,
        proven=proof is not None and proof.proven_at is not None,
        trials_failed=proof.failed if proof else 0,
        said=proof.said if proof else "",
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(_ROLLOUTS,),
        handler=begin_rollout,
        summary="Have a new version on all workers that the fleet launches: boot test, canary, then the rest",
        access=Access.ADMIN,
        answers={201: RolloutBody},
        body=BeginRollout,
        errors=(
            "bad_request",
            "invalid_argument",
            "version_runs",
            "rollout_under_way",
            "not_available",
            "not_ready",
        ),
        changes=True,
    ),
    Endpoint(
        "GET",
        (_ROLLOUTS,),
        list_rollouts,
        "The newest roll-outs, newest first",
        Access.ADMIN,
        {200: list[RolloutBody]},
    ),
    Endpoint(
        method="GET",
        paths=(_ROLLOUTS + "/{rollout}",),
        handler=show_rollout,
        summary="How far a roll-out is, and of each worker what it has proven",
        access=Access.ADMIN,
        answers={200: RolloutBody},
        errors=("not_found",),
    ),
    Endpoint(
        method="POST",
        paths=(_ROLLOUTS + "/{rollout}/cancel",),
        handler=cancel_rollout,
        summary="Turn a roll-out round: its workers are replaced by the version before",
        access=Access.ADMIN,
        answers={200: RolloutBody},
        errors=("not_found", "rollout_over"),
        changes=True,
    ),
)
