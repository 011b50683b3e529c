"""`GET /api/workers`, and the heartbeat by which workers make themselves known."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sandfleet.controlplane.http.answers import Answer, json_answer, list_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.body import read_body
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter
from sandfleet.model.errors import BadRequest
from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.absence import Absence, absence, launched
from sandfleet.wire.public_api import WorkerBody
from sandfleet.wire.worker_messages import Heartbeat

HEARTBEAT_BYTES_MAX = 16 * 1024 * 1024
_BYTES_PER_MIB = 1024 * 1024


async def list_workers(call: Call) -> Answer:
    """Return all workers; without the scope `admin` no addresses and only the caller's sandboxes."""
    stores, policy = call.edge.plane.stores, call.edge.plane.settings.absence_policy
    bodies = []
    workers = await stores.workers.list()
    is_any_away = any(worker.state is WorkerState.UNREACHABLE for worker in workers)
    own = launched(await stores.fleet.launches()) if is_any_away else {}
    for worker in workers:
        residents = await stores.sandboxes.on_worker(worker.id)
        away = absence(worker, is_launched=worker.id in own, policy=policy)
        bodies.append(_worker_body(call, worker, residents, away=away))
    return list_answer(bodies)


def _worker_body(
    call: Call, worker: Worker, residents: Sequence[Sandbox], *, away: Absence | None
) -> WorkerBody:
    caller = call.principal
    living = [sandbox for sandbox in residents if not sandbox.is_terminal]
    shown = [one for one in living if caller.is_admin or one.organisation_id == caller.organisation_id]
    default_mib = call.edge.plane.settings.memory_default_mb
    return WorkerBody(
        worker_id=worker.id,
        machine_id=worker.machine_id,
        region=worker.region,
        state=worker.state.value,
        grpc_addr="",
        http_addr=worker.http_url if caller.is_admin else "",
        capacity=worker.total.memory_mib // default_mib,
        current=len(living),
        cpu_pct=worker.cpu_percent,
        mem_pct=_percent(worker.memory_used_mib, worker.host_memory_mib or worker.total.memory_mib),
        disk_pct=_percent(worker.disk_used_mib, worker.host_disk_mib or worker.total.disk_mib),
        total_memory_mb=worker.total.memory_mib,
        committed_memory_mb=worker.committed.memory_mib,
        golden_version=worker.templates.get("base", ""),
        worker_version=worker.worker_version,
        draining=worker.draining,
        last_seen_at=worker.last_seen_at,
        state_reason=None if away is None else away.reason,
        state_deadline_at=None if away is None else away.deadline_at,
        sandboxes={one.id: _usage(one) for one in shown},
    )


def _usage(sandbox: Sandbox) -> dict[str, float | None]:
    """Return what is known of one sandbox; what was not measured is null, not zero."""
    limit = float(sandbox.resources.memory_mib * _BYTES_PER_MIB)
    return {"mem_usage": None, "mem_limit": limit, "mem_pct": None, "cpu_pct": None}


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


async def forget(call: Call) -> Answer:
    """Take a worker off the fleet for ever: an empty one, or with `?lost=true` one whose host is no more."""
    is_lost = call.query.get("lost", "false")
    if is_lost not in ("true", "false"):
        raise BadRequest("lost must be true or false")
    worker = await call.edge.plane.stores.workers.forget(
        WorkerId(call.values["worker"]), is_lost=is_lost == "true", actor=call.principal.actor
    )
    return json_answer(200, {"workerID": worker.id, "state": worker.state.value})


async def heartbeat(call: Call) -> Answer:
    """Take a worker's heartbeat."""
    raw = await read_body(call.receive, bytes_max=HEARTBEAT_BYTES_MAX)
    try:
        beat = msgspec.json.decode(raw, type=Heartbeat)
    except msgspec.DecodeError as error:
        raise BadRequest("the body is no heartbeat") from error
    if beat.worker_id != call.values["id"]:
        raise BadRequest("the heartbeat is of another worker")
    answer = await call.edge.lifecycle.record_heartbeat(beat)
    return Answer(200, msgspec.json.encode(answer))


ENDPOINTS = (
    Endpoint(
        "GET",
        ("/api/workers",),
        list_workers,
        "List the workers",
        Access.ORGANISATION,
        {200: list[WorkerBody]},
    ),
    Endpoint(
        method="POST",
        paths=("/admin/workers/{worker}/forget",),
        handler=forget,
        summary="Take an empty worker, or one whose host is no more, off the fleet for ever",
        access=Access.ADMIN,
        answers={200: dict},
        parameters=(
            Parameter(
                "lost",
                "`true`: the host is no more; its sandboxes end in `error`",
                schema={"type": "boolean"},
            ),
        ),
        errors=("not_found", "worker_not_empty", "worker_alive"),
        changes=True,
    ),
    Endpoint(
        "POST",
        ("/internal/workers/{id}/heartbeat",),
        heartbeat,
        "Heartbeat of a worker",
        Access.WORKER,
        {200: dict},
    ),
)
