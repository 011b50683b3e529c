"""Empties the workers that are being drained: sees who is there, plans, begins moves, writes down the rest.

Everything that it needs to go on stands in the database: the drain, the moves and saves under way and why
a sandbox stays. So a new leader goes on where the old one was, and a move that was begun ends by itself.

A worker is `drained` when no row and no promise names it and no saved state lies there alone: the last
promise goes when its worker has proven that nothing is left. One that is not empty in time is `stuck`.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.drain_sight import Sight, look
from sandfleet.controlplane.operations.begin_migrate import begin_migrate
from sandfleet.controlplane.operations.checkpoint import begin_checkpoint, checkpoint_ids
from sandfleet.controlplane.operations.hibernate import begin_hibernate, hibernation_ids
from sandfleet.model.drain import Drain, DrainOwner, DrainState, Stay, StayReason
from sandfleet.model.errors import SandfleetError, StaleTerm, StaleVersion, StoreUnavailable
from sandfleet.model.ids import SandboxId, WorkerId, operation_id
from sandfleet.model.operation import Operation
from sandfleet.model.resources import NOTHING
from sandfleet.model.worker import Worker
from sandfleet.planning.draining import (
    DrainPlan,
    DrainPolicy,
    PlannedCheckpoint,
    PlannedMove,
    PlannedSave,
    drain_plan,
    saves_begin,
    state_of,
)
from sandfleet.planning.placement import FleetView

ACTOR = "drain"
SAVES_FACTOR = 4
"""So many times as many are put to sleep at once as move: there is little time left for them."""
KEPT_NAME = "before-its-host-ends"
"""How the name of a checkpoint begins that was taken for a notice."""
NO_STORE = "there is no object store, so it would not be safe"


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
        sight = await look(self.plane, drain)
        plan = drain_plan(
            worker,
            sight.residents,
            FleetView(workers),
            await self._policy(drain),
            now=self.plane.clock.now(),
            incoming={name: count for name, count in incoming.items() if name is not None},
        )
        begun = [await self._begin(move, sight.drain, term=term) for move in plan.moves]
        incoming.update(move.target for move in plan.moves)
        begun += [await self._begin(save, sight.drain, term=term) for save in plan.saves]
        begun += [await self._begin(one, sight.drain, term=term) for one in plan.checkpoints]
        begun += _arriving(sight)
        begun += [self._alone(name) for name in sight.alone]
        return await self._write(sight.drain, worker, plan, begun, term=term)

    async def _wanted_version(self, drain: Drain) -> str | None:
        """Return the version of the workers to which a roll-out's drain may move, None for any."""
        if drain.owner is not DrainOwner.ROLLOUT:
            return None
        stored = await self.plane.stores.rollouts.current()
        return None if stored is None else stored.rollout.target

    async def _policy(self, drain: Drain) -> DrainPolicy:
        settings = self.plane.settings
        refusal = "" if drain.hibernates else "its drain does not ask for that"
        return DrainPolicy(
            settings.drain_moves_at_once,
            settings.placement_policy,
            deadline_at=drain.deadline_at,
            saves_from=saves_begin(drain),
            saves_at_once=SAVES_FACTOR * settings.drain_moves_at_once,
            no_saves=NO_STORE if settings.blob_store_url is None else refusal,
            is_host_ending=drain.owner is DrainOwner.NOTICE,
            worker_version=await self._wanted_version(drain),
        )

    async def _begin(
        self, planned: PlannedMove | PlannedSave | PlannedCheckpoint, drain: Drain, *, term: int
    ) -> Stay:
        """Begin it; what refuses it now is told, and the next round plans anew."""
        name = planned.sandbox.id
        stay = next((one for one in drain.stays if one.sandbox_id == name), None)
        stay = stay or Stay(name, StayReason.WAITING, "")
        try:
            if isinstance(planned, PlannedMove):
                return await self._move(planned, stay, term=term)
            if isinstance(planned, PlannedCheckpoint):
                return await self._keep(planned, stay, term=term)
            return await self._save(planned, stay, drain, term=term)
        except (StoreUnavailable, StaleTerm):
            raise
        except StaleVersion:
            return replace(stay, reason=StayReason.WAITING, said="it has just changed", operation_id=None)
        except SandfleetError as error:
            return replace(stay, reason=StayReason.WAITING, said=error.message, operation_id=None)

    async def _move(self, move: PlannedMove, stay: Stay, *, term: int) -> Stay:
        operation = await begin_migrate(
            self.plane,
            move.sandbox,
            target=move.target,
            operation_id=operation_id(secrets.token_bytes(16)),
            actor=ACTOR,
            term=term,
        )
        self.start(operation)
        return replace(
            stay,
            reason=StayReason.MOVING,
            said=f"it moves to {move.target}: {move.reason}",
            target=move.target,
            operation_id=operation.id,
            retry_at=None,
        )

    async def _save(self, save: PlannedSave, stay: Stay, drain: Drain, *, term: int) -> Stay:
        reason = f"{drain.worker_id} is drained ({drain.reason or drain.owner}): {save.reason}"
        operation = await begin_hibernate(
            self.plane, save.sandbox, ids=hibernation_ids(), actor=ACTOR, reason=reason, term=term
        )
        self.start(operation)
        return replace(
            stay,
            reason=StayReason.SAVING,
            said=f"it is being put to sleep: {save.reason}",
            target=None,
            operation_id=operation.id,
            retry_at=None,
        )

    async def _keep(self, keep: PlannedCheckpoint, stay: Stay, *, term: int) -> Stay:
        ids = checkpoint_ids()
        name = f"{KEPT_NAME}-{ids['checkpoint_id'][-8:]}"
        _, operation = await begin_checkpoint(
            self.plane, keep.sandbox, ids=ids, name=name, actor=ACTOR, term=term
        )
        self.start(operation)
        return replace(
            stay,
            reason=StayReason.KEEPING,
            said=f"a checkpoint of it is taken: {keep.reason}",
            target=None,
            operation_id=operation.id,
            retry_at=None,
        )

    def _alone(self, name: SandboxId) -> Stay:
        if self.plane.settings.blob_store_url is None:
            return Stay(
                name, StayReason.HELD, "a saved state of it is only here, and there is no object store"
            )
        return Stay(name, StayReason.SAVING, "a saved state of it is only here yet")

    async def _write(
        self, drain: Drain, worker: Worker, plan: DrainPlan, begun: Sequence[Stay], *, term: int
    ) -> str:
        stays = tuple(sorted((*plan.stays, *begun), key=lambda stay: stay.sandbox_id))
        is_bare, now = worker.committed == NOTHING, self.plane.clock.now()
        seen = replace(drain, state=state_of(drain, stays, is_bare=is_bare, now=now), stays=stays)
        if seen != await self.plane.stores.drains.get(worker.id):
            await self.plane.stores.drains.save(seen, term=term)
        return _sentence(seen, worker)


def _arriving(sight: Sight) -> list[Stay]:
    """Return those whose row is their target's already, and whose move has not ended: it is counted then."""
    here = {one.sandbox.id for one in sight.residents}
    return [
        replace(stay, said=f"it arrives at {stay.target}")
        for stay in sight.drain.stays
        if stay.reason is StayReason.MOVING and stay.operation_id and stay.sandbox_id not in here
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
    stuck = " is stuck" if drain.state is DrainState.STUCK else ""
    return f"{drain.worker_id}{stuck}: {drain.moved} moved, {drain.slept} put to sleep, {shown}"
