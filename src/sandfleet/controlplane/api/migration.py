"""`…/migrate`: a running sandbox goes on at another worker."""

from __future__ import annotations

from typing import cast

from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.api.verbs import begin_in_turn, needs_running, outcome, resumed, verb_ids
from sandfleet.controlplane.http.answers import Answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.operations.begin_migrate import require_known
from sandfleet.controlplane.proxy.readiness import find_any_sandbox, gone
from sandfleet.model.errors import BadRequest, NotFound
from sandfleet.model.ids import WorkerId
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.wire.public_moves import ANY_WORKER, MigratedBody, MigrateSandbox, MigrationBody

ANSWER_BY_S = 3600.0
"""A large guest on a slow link takes its time, and its caller waits for it unless `Prefer` says otherwise."""


async def migrate_sandbox(call: Call) -> Answer:
    """Move it, and answer when it runs at its target."""
    sandbox = await find_any_sandbox(call.edge, call.values["id"])
    operation = await resumed(call) or await _begun(call, sandbox)
    operation = await outcome(call, operation, answer_by_s=ANSWER_BY_S)
    is_pending = operation.state is OperationState.RUNNING
    moved = MigratedBody(
        sandbox_id=operation.sandbox_id,
        source_worker=operation.arguments["source"],
        target_worker=operation.arguments["target"],
        elapsed_ms=int(operation.progress.get("elapsed_ms", 0)),
        downtime_ms=int(operation.progress.get("downtime_ms", 0)),
        pending=is_pending,
    )
    return model_answer(202 if is_pending else 200, moved)


async def _begun(call: Call, sandbox: Sandbox) -> Operation:
    if sandbox.is_terminal:
        raise gone(sandbox)
    wanted = cast(MigrateSandbox, call.model).target_worker
    if not wanted:
        raise BadRequest("targetWorker is missing")
    target = None if wanted == ANY_WORKER else WorkerId(wanted)
    needs_running(sandbox)
    if target is not None:  # before it waits for its turn
        await require_known(call.edge.plane, target)

    async def begin(row: Sandbox) -> Operation:
        return await call.edge.lifecycle.migrate(
            row, target=target, operation_id=call.fixed["operation_id"], actor=call.principal.actor
        )

    return await begin_in_turn(call, begin, check=needs_running, owner=sandbox.organisation_id)


async def show_migration(call: Call) -> Answer:
    """Return how the migration under way stands."""
    sandbox = await find_any_sandbox(call.edge, call.values["id"])
    still_open = await call.edge.plane.stores.operations.open_for(sandbox.id)
    operation = next((one for one in still_open if one.kind is OperationKind.MIGRATE), None)
    if operation is None:
        raise NotFound("the sandbox is not being moved")
    said = operation.progress
    elapsed = call.edge.plane.clock.now() - operation.created_at
    return model_answer(
        200,
        MigrationBody(
            sandbox_id=sandbox.id,
            source_worker=operation.arguments["source"],
            target_worker=operation.arguments["target"],
            step=operation.step,
            phase=str(said.get("step", "")),
            way=str(said.get("way", "")),
            round=int(said.get("round", 0)),
            elapsed_ms=round(elapsed.total_seconds() * 1000),
            transferred_bytes=int(said.get("transferred_bytes", 0)),
            remaining_bytes=int(said.get("remaining_bytes", 0)),
            dirty_bytes_per_s=int(said.get("dirty_bytes_per_s", 0)),
            bandwidth_bytes_per_s=int(said.get("bandwidth_bytes_per_s", 0)),
            downtime_ms_expected=float(said.get("downtime_ms_expected", 0.0)),
            said=str(said.get("said", "")),
        ),
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        paths=(f"{SANDBOX}/migrate",),
        handler=migrate_sandbox,
        summary="Move a running sandbox to another worker, its memory, disks and connections with it",
        access=Access.ADMIN,
        body=MigrateSandbox,
        answers={200: MigratedBody, 202: MigratedBody},
        errors=(
            "bad_request",
            "not_running",
            "same_worker",
            "not_found",
            "gone",
            "operation_in_progress",
            "target_unavailable",
            "not_available",
            "not_ready",
        ),
        changes=True,
        fixes=verb_ids,
        resumes=True,
    ),
    Endpoint(
        method="GET",
        paths=(f"{SANDBOX}/migrate",),
        handler=show_migration,
        summary="How the migration under way stands",
        access=Access.ADMIN,
        answers={200: MigrationBody},
        errors=("not_found",),
    ),
)
