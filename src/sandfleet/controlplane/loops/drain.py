"""Empties the workers that are being drained: sees who is there, plans, begins moves, writes down the rest.

Everything that it needs to go on stands in the database: the drain, the moves under way and why a
sandbox stays. So a new leader goes on where the old one was, and a move that was begun ends by itself.

A worker is `drained` when no row and no promise names it: the last promise goes when the worker has proven
that nothing is left. Sandboxes that sleep are on no worker; what is saved only there `forget` asks after.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.operations.begin_migrate import begin_migrate
from sandfleet.model.drain import Drain, DrainOwner, DrainState, Stay, StayReason
from sandfleet.model.errors import NotFound, SandfleetError, StaleTerm, StaleVersion, StoreUnavailable
from sandfleet.model.ids import OperationId, SandboxId, WorkerId, operation_id
from sandfleet.model.operation import BACKGROUND_KINDS, Operation, OperationKind, OperationState
from sandfleet.model.resources import NOTHING
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import Worker
from sandfleet.planning.draining import (
    DrainPlan,
    DrainPolicy,
    PlannedMove,
    Resident,
    drain_plan,
    retry_at,
)
from sandfleet.planning.placement import FleetView

ACTOR = "drain"


@dataclass(frozen=True, slots=True)
class DrainLoop:
    """The leader's loop. `start` runs an operation that was just written."""

    plane: ControlPlane
    start: Callable[[Operation], None]

    async def tick(self, *, term: int) -> str:
        """Go on with every drain."""
        drains = await self.plane.stores.drains.list()
        incoming = Counter(stay.target for drain in drains for stay in drain.stays if _is_coming(stay))
        said = []
        for drain in drains:
            workers = await self.plane.stores.workers.list()
            said.append(await self._go_on(drain, workers, incoming, term=term))
        return "; ".join(said) or "no worker is being drained"

    async def _go_on(
        self, drain: Drain, workers: Sequence[Worker], incoming: Counter[WorkerId | None], *, term: int
    ) -> str:
        worker = next(one for one in workers if one.id == drain.worker_id)
        rows = await self.plane.stores.sandboxes.on_worker(worker.id)
        before, drain = drain, await self._with_ended_moves(drain)
        rows = await self._as_their_moves_left_them(rows, before, drain)
        residents = [await self._resident(row, drain) for row in rows]
        settings = self.plane.settings
        plan = drain_plan(
            worker,
            residents,
            FleetView(workers),
            DrainPolicy(
                settings.drain_moves_at_once, settings.placement_policy, await self._wanted_version(drain)
            ),
            now=self.plane.clock.now(),
            incoming={name: count for name, count in incoming.items() if name is not None},
        )
        begun = [await self._begin(move, drain, term=term) for move in plan.moves]
        incoming.update(move.target for move in plan.moves)
        begun += _arriving(drain, {row.id for row in rows})
        return await self._write(drain, worker, plan, begun, term=term)

    async def _wanted_version(self, drain: Drain) -> str | None:
        """Return the version of the workers to which a roll-out's drain may move, None for any."""
        if drain.owner is not DrainOwner.ROLLOUT:
            return None
        stored = await self.plane.stores.rollouts.current()
        return None if stored is None else stored.rollout.target

    async def _with_ended_moves(self, drain: Drain) -> Drain:
        """Take in how the moves ended that were under way the time before."""
        moved, stays = drain.moved, []
        for stay in drain.stays:
            ended = await self._ended(stay)
            if ended is None:
                stays.append(stay)
            elif ended.state is OperationState.SUCCEEDED:
                moved += 1
            else:
                stays.append(self._failed(stay, ended))
        return replace(drain, moved=moved, stays=tuple(stays))

    async def _as_their_moves_left_them(
        self, rows: Sequence[Sandbox], before: Drain, after: Drain
    ) -> Sequence[Sandbox]:
        """Read again whose moves have just failed: of a row that moves still the pause is forgotten."""
        attempts = {stay.sandbox_id: stay.attempts for stay in before.stays}
        failed = {stay.sandbox_id for stay in after.stays if stay.attempts > attempts[stay.sandbox_id]}
        if not failed:
            return rows
        now = {row.id: row for row in await self.plane.stores.sandboxes.on_worker(before.worker_id)}
        others = [row for row in rows if row.id not in failed]
        return [*others, *(now[name] for name in sorted(failed) if name in now)]

    async def _ended(self, stay: Stay) -> Operation | None:
        if stay.reason is not StayReason.MOVING or stay.operation_id is None:
            return None
        try:
            operation = await self.plane.stores.operations.get(stay.operation_id)
        except NotFound:
            return None
        return None if operation.state is OperationState.RUNNING else operation

    def _failed(self, stay: Stay, ended: Operation) -> Stay:
        attempts = stay.attempts + 1
        return replace(
            stay,
            reason=StayReason.HELD,
            said=f"its move to {stay.target} failed: {ended.error_message or ended.state}",
            operation_id=None,
            attempts=attempts,
            retry_at=retry_at(attempts, now=self.plane.clock.now()),
        )

    async def _resident(self, row: Sandbox, drain: Drain) -> Resident:
        """Read its operations after its row: what begins later changes the row's version."""
        before = next((stay for stay in drain.stays if stay.sandbox_id == row.id), None)
        if row.state not in (SandboxState.RUNNING, SandboxState.MIGRATING):
            return Resident(row, before=before)
        still_open = await self.plane.stores.operations.open_for(row.id)
        move = next((one for one in still_open if one.kind is OperationKind.MIGRATE), None)
        if move is not None:
            before = before or Stay(row.id, StayReason.MOVING, "")
            target = WorkerId(move.arguments["target"])
            return Resident(row, before=replace(before, target=target, operation_id=move.id))
        busy = next((one.kind.value for one in still_open if one.kind not in BACKGROUND_KINDS), None)
        return Resident(row, under_way=busy, before=before)

    async def _begin(self, move: PlannedMove, drain: Drain, *, term: int) -> Stay:
        """Begin it; what refuses it now is told, and the next round plans anew."""
        before = next((stay for stay in drain.stays if stay.sandbox_id == move.sandbox.id), None)
        stay = before or Stay(move.sandbox.id, StayReason.WAITING, "")
        try:
            operation = await begin_migrate(
                self.plane,
                move.sandbox,
                target=move.target,
                operation_id=operation_id(secrets.token_bytes(16)),
                actor=ACTOR,
                term=term,
            )
        except (StoreUnavailable, StaleTerm):
            raise
        except StaleVersion:
            return replace(stay, reason=StayReason.WAITING, said="it has just changed", operation_id=None)
        except SandfleetError as error:
            return replace(stay, reason=StayReason.WAITING, said=error.message, operation_id=None)
        self.start(operation)
        return replace(
            stay,
            reason=StayReason.MOVING,
            said=f"it moves to {move.target}: {move.reason}",
            target=move.target,
            operation_id=OperationId(operation.id),
            retry_at=None,
        )

    async def _write(
        self, drain: Drain, worker: Worker, plan: DrainPlan, begun: Sequence[Stay], *, term: int
    ) -> str:
        stays = tuple(sorted((*plan.stays, *begun), key=lambda stay: stay.sandbox_id))
        is_done = not stays and worker.committed == NOTHING
        state = DrainState.DRAINED if is_done else DrainState.DRAINING
        seen = replace(drain, state=state, stays=stays)
        if seen != await self.plane.stores.drains.get(worker.id):
            await self.plane.stores.drains.save(seen, term=term)
        return _sentence(seen, worker)


def _arriving(drain: Drain, residents: set[SandboxId]) -> list[Stay]:
    """Return those whose row is their target's already, and whose move has not ended: it is counted then."""
    return [
        replace(stay, said=f"it arrives at {stay.target}")
        for stay in drain.stays
        if stay.reason is StayReason.MOVING and stay.operation_id and stay.sandbox_id not in residents
    ]


def _is_coming(stay: Stay) -> bool:
    return stay.reason is StayReason.MOVING and stay.target is not None


def _sentence(drain: Drain, worker: Worker) -> str:
    if drain.state is DrainState.DRAINED:
        return f"{drain.worker_id} is drained"
    counts = Counter(stay.reason for stay in drain.stays)
    shown = ", ".join(f"{counts[reason]} {reason}" for reason in StayReason if counts[reason])
    if not shown:
        shown = f"{worker.committed.memory_mib} MiB are being cleared away"
    return f"{drain.worker_id}: {drain.moved} moved, {shown}"
