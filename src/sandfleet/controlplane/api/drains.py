"""`/admin/workers/{worker}/drain`: all sandboxes leave a worker, in the background."""

from __future__ import annotations

from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter
from sandfleet.model.drain import Drain, Stay
from sandfleet.model.errors import BadRequest
from sandfleet.model.ids import WorkerId
from sandfleet.wire.public_drains import DrainBody, StayBody

_DRAIN = "/admin/workers/{worker}/drain"


async def drain_worker(call: Call) -> Answer:
    """Begin, or with `?drain=false` undo; twice is as good as once."""
    asked = call.query.get("drain", "true")
    if asked not in ("true", "false"):
        raise BadRequest("drain must be true or false")
    if asked == "false":
        return await undrain_worker(call)
    worker_id = WorkerId(call.values["worker"])
    drain = await call.edge.plane.stores.drains.begin(worker_id, actor=call.principal.actor)
    return model_answer(200, _body(worker_id, drain))


async def undrain_worker(call: Call) -> Answer:
    """Let it take sandboxes again. What is on its way elsewhere arrives there all the same."""
    worker_id = WorkerId(call.values["worker"])
    await call.edge.plane.stores.drains.end(worker_id, actor=call.principal.actor)
    return model_answer(200, _body(worker_id, None))


async def show_drain(call: Call) -> Answer:
    """Return how far it is, and of each sandbox that is there still why it is."""
    stores = call.edge.plane.stores
    worker = await stores.workers.get(WorkerId(call.values["worker"]))
    return model_answer(200, _body(worker.id, await stores.drains.get(worker.id)))


def _body(worker_id: WorkerId, drain: Drain | None) -> DrainBody:
    if drain is None:
        return DrainBody(worker_id=worker_id, draining=False, state="none")
    return DrainBody(
        worker_id=worker_id,
        draining=True,
        state=drain.state.value,
        moved=drain.moved,
        remaining=len(drain.stays),
        begun_at=drain.begun_at,
        drained_at=drain.drained_at,
        requested_by=drain.actor,
        owner=drain.owner.value,
        reason=drain.reason,
        sandboxes=[_stay_body(stay) for stay in drain.stays],
    )


def _stay_body(stay: Stay) -> StayBody:
    return StayBody(
        sandbox_id=stay.sandbox_id,
        why=stay.reason.value,
        reason=stay.said,
        target_worker=stay.target,
        attempts=stay.attempts,
        retry_at=stay.retry_at,
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(_DRAIN,),
        handler=drain_worker,
        summary="Have all sandboxes leave a worker, and place none on it any more",
        access=Access.ADMIN,
        answers={200: DrainBody},
        parameters=(Parameter("drain", "`false`: it may take sandboxes again", schema={"type": "boolean"}),),
        errors=("bad_request", "not_found"),
        changes=True,
    ),
    Endpoint(
        method="POST",
        paths=("/admin/workers/{worker}/undrain",),
        handler=undrain_worker,
        summary="Let a worker that was being drained take sandboxes again",
        access=Access.ADMIN,
        answers={200: DrainBody},
        errors=("not_found",),
        changes=True,
    ),
    Endpoint(
        method="GET",
        paths=(_DRAIN,),
        handler=show_drain,
        summary="How far a worker's drain is, and why each sandbox is there still",
        access=Access.ADMIN,
        answers={200: DrainBody},
        errors=("not_found",),
    ),
)
