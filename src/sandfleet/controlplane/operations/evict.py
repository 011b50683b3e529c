"""Evict: an operator has sandboxes leave a worker now, as many as others have room for; the rest stays.

It is no state of the worker: what stays is not tried again, and new ones may come. Each move is a migration
of its own from then on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from sandfleet.controlplane.dependencies import ControlPlane, Evicted, Eviction
from sandfleet.controlplane.loops.drain_sight import look
from sandfleet.controlplane.operations.begin_migrate import begin_migrate, require_known
from sandfleet.model.drain import Drain, Stay, StayReason
from sandfleet.model.errors import SandfleetError, StoreUnavailable
from sandfleet.model.ids import WorkerId, operation_id
from sandfleet.model.operation import Operation
from sandfleet.planning.draining import DrainPolicy, PlannedMove, drain_plan
from sandfleet.planning.placement import FleetView

AT_ONCE_MAX = 16
"""So many leave a worker, and come to one, for one call: what waits longer for its turn would be given up."""


async def evict(
    plane: ControlPlane, worker_id: WorkerId, *, actor: str, begin: Callable[[Operation], None]
) -> Eviction:
    """Plan all moves that are possible now and begin them; NotFound."""
    await require_known(plane, worker_id)
    now = plane.clock.now()
    workers = await plane.stores.workers.list()
    worker = next(one for one in workers if one.id == worker_id)
    sight = await look(plane, Drain(worker_id, actor, now))
    policy = DrainPolicy(AT_ONCE_MAX, plane.settings.placement_policy)
    plan = drain_plan(worker, sight.residents, FleetView(workers), policy, now=now, incoming={})
    evicted, stays = await _begin(plane, plan.moves, actor=actor, begin=begin)
    left = sorted((*plan.stays, *stays), key=lambda stay: stay.sandbox_id)
    return Eviction(worker_id, tuple(evicted), tuple(left))


async def _begin(
    plane: ControlPlane, moves: Sequence[PlannedMove], *, actor: str, begin: Callable[[Operation], None]
) -> tuple[list[Evicted], list[Stay]]:
    """Begin each; what refuses one at the last moment is told, and holds up no other."""
    evicted: list[Evicted] = []
    stays: list[Stay] = []
    for move in moves:
        try:
            operation = await begin_migrate(
                plane,
                move.sandbox,
                target=move.target,
                operation_id=operation_id(secrets.token_bytes(16)),
                actor=actor,
            )
        except StoreUnavailable:
            raise
        except SandfleetError as error:
            stays.append(Stay(move.sandbox.id, StayReason.HELD, error.message))
        else:
            begin(operation)
            evicted.append(Evicted(move.sandbox.id, move.target, move.reason))
    return evicted, stays
