"""`/admin/workers/{worker}/drain`: all sandboxes leave a worker, in the background; `…/evict`: some, now."""

from __future__ import annotations

from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter
from sandfleet.model.drain import ASKED_FOR, DRAIN_DEADLINE_S, Drain, DrainTerms, Stay
from sandfleet.model.errors import BadRequest
from sandfleet.model.ids import WorkerId
from sandfleet.wire.public_drains import DrainBody, EvictedBody, EvictionBody, StayBody

DEADLINE_S_MAX = 7 * 86400
REASON_MAX = 200
_DRAIN = "/admin/workers/{worker}/drain"


async def drain_worker(call: Call) -> Answer:
    """Begin, or with `?drain=false` undo; twice is as good as once."""
    asked = call.query.get("drain", "true")
    if asked not in ("true", "false"):
        raise BadRequest("drain must be true or false")
    if asked == "false":
        return await undrain_worker(call)
    worker_id, terms = WorkerId(call.values["worker"]), _terms(call)
    drain = await call.edge.plane.stores.drains.begin(worker_id, actor=call.principal.actor, terms=terms)
    return model_answer(200, _body(worker_id, drain))


def _terms(call: Call) -> DrainTerms | None:
    """Return what the caller wants agreed; None leaves a drain that has begun as it is."""
    query = call.query
    try:
        deadline_s = float(query.get("deadline_s", str(DRAIN_DEADLINE_S)))
    except ValueError:
        deadline_s = -1.0
    if not 0 <= deadline_s <= DEADLINE_S_MAX:
        raise BadRequest(f"deadline_s must be 0 to {DEADLINE_S_MAX}")
    hibernates = query.get("hibernate", "true")
    if hibernates not in ("true", "false"):
        raise BadRequest("hibernate must be true or false")
    reason = query.get("reason", ASKED_FOR)[:REASON_MAX]
    is_given = bool({"deadline_s", "hibernate", "reason"} & query.keys())
    return DrainTerms(reason, deadline_s, hibernates == "true") if is_given else None


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


async def evict_worker(call: Call) -> Answer:
    """Move as many of its sandboxes as others have room for, now; the rest stays and says why."""
    eviction = await call.edge.lifecycle.evict(WorkerId(call.values["worker"]), actor=call.principal.actor)
    body = EvictionBody(
        worker_id=eviction.worker_id,
        evicted=[
            EvictedBody(sandbox_id=one.sandbox_id, to=one.to, reason=one.reason) for one in eviction.evicted
        ],
        remaining=len(eviction.stays),
        sandboxes=[_stay_body(stay) for stay in eviction.stays],
    )
    return model_answer(200, body)


def _body(worker_id: WorkerId, drain: Drain | None) -> DrainBody:
    if drain is None:
        return DrainBody(worker_id=worker_id, draining=False, state="none")
    return DrainBody(
        worker_id=worker_id,
        draining=True,
        state=drain.state.value,
        moved=drain.moved,
        slept=drain.slept,
        remaining=len(drain.stays),
        begun_at=drain.begun_at,
        drained_at=drain.drained_at,
        deadline_at=drain.deadline_at,
        stuck_at=drain.stuck_at,
        hibernates=drain.hibernates,
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
        parameters=(
            Parameter("drain", "`false`: it may take sandboxes again", schema={"type": "boolean"}),
            Parameter(
                "deadline_s",
                "in how many seconds it is to be empty; what has not moved shortly before is put to sleep",
                schema={"type": "number", "minimum": 0, "maximum": DEADLINE_S_MAX},
            ),
            Parameter("hibernate", "`false`: nothing is put to sleep for it", schema={"type": "boolean"}),
            Parameter("reason", "why it is drained, for people", schema={"type": "string"}),
        ),
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
        method="POST",
        paths=("/admin/workers/{worker}/evict",),
        handler=evict_worker,
        summary="Move as many sandboxes away from a worker as others have room for",
        access=Access.ADMIN,
        answers={200: EvictionBody},
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
