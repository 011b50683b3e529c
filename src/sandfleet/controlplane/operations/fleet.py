"""The durable half of a replica: its operations, its loops, and the verbs that begin them.

fleet = Fleet(plane)
async with fleet.running():
    await fleet.create(order)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder
from sandfleet.controlplane.heartbeats import record_heartbeat
from sandfleet.controlplane.loops import cleanup, expiry, liveness, takeover
from sandfleet.controlplane.loops.leadership import Leadership
from sandfleet.controlplane.loops.reconcile import Reconciler
from sandfleet.controlplane.loops.runner import Loop, LoopRunner
from sandfleet.controlplane.operations.create import CREATE, begin_create
from sandfleet.controlplane.operations.destroy import DESTROY
from sandfleet.controlplane.operations.engine import OperationEngine
from sandfleet.controlplane.operations.expire import EXPIRE
from sandfleet.controlplane.operations.kill import kill
from sandfleet.model.operation import Operation, OperationKind
from sandfleet.model.sandbox import Sandbox
from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer

DEFINITIONS = {
    OperationKind.CREATE: CREATE,
    OperationKind.DESTROY: DESTROY,
    OperationKind.EXPIRE: EXPIRE,
}
RECONCILE_EVERY_S = 5.0
CLEANUP_EVERY_S = 600.0
LEADER_TICKS_PER_LEASE = 4


class Fleet:
    """Operations and loops of one replica (port of the HTTP edge: `dependencies.Lifecycle`)."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.engine = OperationEngine(plane, DEFINITIONS)
        self.leadership = Leadership(plane)
        self.reconciler = Reconciler(plane, self.engine)
        self.loops = LoopRunner(plane, self.leadership, self._loops())

    @asynccontextmanager
    async def running(self, *, with_loops: bool = True) -> AsyncIterator[Fleet]:
        """Run operations and loops within; at the end let others take over at once."""
        async with self.engine.running(), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.loops.run())] if with_loops else []
            try:
                yield self
            finally:
                for task in running:
                    task.cancel()
                await self.leadership.give_up()

    async def create(self, order: CreateOrder) -> Sandbox:
        """Write row and operation, and run it."""
        sandbox, operation = await begin_create(self._plane, order)
        self.engine.start(operation, sandbox=sandbox)
        return sandbox

    async def kill(self, sandbox: Sandbox, *, actor: str) -> Sandbox:
        """Stop the row, and run the operation that removes the VM."""

        def begin(operation: Operation) -> None:
            self.engine.look_again(sandbox.id)
            self.engine.start(operation)

        return await kill(self._plane, sandbox, actor=actor, begin=begin)

    async def record_heartbeat(self, beat: Heartbeat) -> HeartbeatAnswer:
        """Write down what a worker says."""
        return await record_heartbeat(self._plane, beat)

    def _loops(self) -> tuple[Loop, ...]:
        plane, engine = self._plane, self.engine
        every_s = plane.settings.loop_interval_s
        leader_every_s = plane.settings.leader_lease_s / LEADER_TICKS_PER_LEASE
        return (
            Loop("leadership", leader_every_s, lambda _: self.leadership.tick(), for_leader=False),
            Loop("takeover", every_s, lambda _: takeover.tick(plane, engine), for_leader=False),
            Loop("expiry", every_s, lambda term: expiry.tick(plane, engine, term=term)),
            Loop("liveness", every_s, lambda term: liveness.tick(plane, term=term)),
            Loop("reconcile", RECONCILE_EVERY_S, lambda term: self.reconciler.tick(term=term)),
            Loop("cleanup", CLEANUP_EVERY_S, lambda _: cleanup.tick(plane)),
        )
