"""`…/placement`: why a sandbox is where it is, as it was decided then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.proxy.readiness import find_sandbox
from sandfleet.model.ids import WorkerId
from sandfleet.planning.placement_history import Stay, stays
from sandfleet.planning.placement_record import recorded_candidates
from sandfleet.wire.public_placement import (
    CandidateBody,
    PlacementBody,
    PlacementRequestBody,
    StayedBody,
)

ROWS_READ_MAX = 1000
"""Of its log, the newest. What came before them is not told."""


async def show_placement(call: Call) -> Answer:
    """Return the recorded decision, and the stays before it; every worker's part is for `admin` alone."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    rows = await call.edge.plane.stores.sandboxes.transitions(
        sandbox.organisation_id, sandbox.id, limit=ROWS_READ_MAX
    )
    been = list(reversed(stays(reversed(rows))))
    last = been[0] if been and been[0].until is None else None
    body = PlacementBody(
        sandbox_id=sandbox.id,
        worker_id=sandbox.worker_id,
        epoch=sandbox.epoch,
        history=[_stayed(one) for one in been],
        **({} if last is None else _decision(last, is_admin=call.principal.is_admin)),
    )
    return model_answer(200, body)


def _decision(stay: Stay, *, is_admin: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"placed_at": stay.since, "cause": stay.cause, "reason": stay.reason}
    if not stay.decision:  # a placement from before decisions were recorded
        return said
    said["request"] = _request(stay.decision["request"])
    if is_admin:
        said["candidates"] = _candidates(stay.decision, chosen=stay.worker_id)
        said["candidates_left_out"] = stay.decision["left_out"]
    return said


def _request(given: Mapping[str, Any]) -> PlacementRequestBody:
    return PlacementRequestBody(
        memory_mib=given["memory_mib"],
        cpu_count=given["cpu_count"],
        disk_mib=given["disk_mib"],
        region=given["region"],
        template_id=given["template"],
    )


def _candidates(decision: Mapping[str, Any], *, chosen: WorkerId) -> list[CandidateBody]:
    return [
        CandidateBody(
            worker_id=one.worker_id,
            chosen=one.worker_id == chosen,
            score=one.score,
            refused_by=one.refused_by,
            reason=one.reason,
        )
        for one in recorded_candidates(decision)
    ]


def _stayed(stay: Stay) -> StayedBody:
    return StayedBody(
        worker_id=stay.worker_id,
        epoch=stay.epoch,
        since=stay.since,
        until=stay.until,
        cause=stay.cause,
        reason=stay.reason,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        paths=(f"{SANDBOX}/placement",),
        handler=show_placement,
        summary="Why the sandbox is where it is, and where it was before; with the scope `admin` also what "
        "was said of every worker then",
        access=Access.ORGANISATION,
        answers={200: PlacementBody},
        errors=("not_found",),
    ),
)
