"""The durable half of a replica: its operations, its loops, and the verbs that begin them.

fleet = Fleet(plane)
async with fleet.running():
    await fleet.create(order)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.dependencies import ControlPlane, CreateOrder, Eviction, NewSize
from sandfleet.controlplane.heartbeats import record_heartbeat
from sandfleet.controlplane.loops import cleanup, expiry, garbage, liveness, strays, sweep, takeover
from sandfleet.controlplane.loops.autoscale import AutoscaleLoop
from sandfleet.controlplane.loops.capacity import CapacityLoop
from sandfleet.controlplane.loops.drain import DrainLoop
from sandfleet.controlplane.loops.leadership import TOPIC, Leadership
from sandfleet.controlplane.loops.lost import LostWorkerLoop
from sandfleet.controlplane.loops.machines import MachineLoop, look_for_pools
from sandfleet.controlplane.loops.notices import NoticeLoop
from sandfleet.controlplane.loops.orphans import OrphanLoop
from sandfleet.controlplane.loops.pressure import PressureLoop
from sandfleet.controlplane.loops.reconcile import Reconciler
from sandfleet.controlplane.loops.rollout import RolloutLoop
from sandfleet.controlplane.loops.runner import Loop, LoopRunner
from sandfleet.controlplane.loops.trials import ACTOR as TRIAL_ACTOR
from sandfleet.controlplane.loops.trials import TrialLoop
from sandfleet.controlplane.loops.version_source import VersionSourceLoop
from sandfleet.controlplane.operations.begin_migrate import begin_migrate
from sandfleet.controlplane.operations.checkpoint import CHECKPOINT, begin_checkpoint
from sandfleet.controlplane.operations.create import CREATE, begin_create, begun_create
from sandfleet.controlplane.operations.creation_queue import QUEUE_TOPIC
from sandfleet.controlplane.operations.destroy import DESTROY
from sandfleet.controlplane.operations.engine import LET_GO_TOPIC, OperationEngine
from sandfleet.controlplane.operations.evict import evict
from sandfleet.controlplane.operations.expire import EXPIRE
from sandfleet.controlplane.operations.fork import FORK, begin_fork
from sandfleet.controlplane.operations.hibernate import HIBERNATE, begin_hibernate
from sandfleet.controlplane.operations.kill import kill
from sandfleet.controlplane.operations.migrate import MIGRATE
from sandfleet.controlplane.operations.reboot import REBOOT, begin_restart
from sandfleet.controlplane.operations.recover import RECOVER
from sandfleet.controlplane.operations.release import RELEASE
from sandfleet.controlplane.operations.resize import RESIZE
from sandfleet.controlplane.operations.resize_or_move import begin_resize_or_move
from sandfleet.controlplane.operations.restore import RESTORE, begin_restore
from sandfleet.controlplane.operations.upload import UPLOAD
from sandfleet.controlplane.operations.wake import WAKE, begin_wake
from sandfleet.model.checkpoint import Checkpoint
from sandfleet.model.ids import OperationId, SandboxId, WorkerId, operation_id
from sandfleet.model.operation import Operation, OperationKind, OperationState
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.machine_pool import MachinePool
from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer

DEFINITIONS = {
    OperationKind.CREATE: CREATE,
    OperationKind.DESTROY: DESTROY,
    OperationKind.EXPIRE: EXPIRE,
    OperationKind.HIBERNATE: HIBERNATE,
    OperationKind.WAKE: WAKE,
    OperationKind.CHECKPOINT: CHECKPOINT,
    OperationKind.RESTORE: RESTORE,
    OperationKind.FORK: FORK,
    OperationKind.UPLOAD: UPLOAD,
    OperationKind.RESIZE: RESIZE,
    OperationKind.REBOOT: REBOOT,
    OperationKind.RECOVER: RECOVER,
    OperationKind.MIGRATE: MIGRATE,
    OperationKind.RELEASE: RELEASE,
}
RECONCILE_EVERY_S = 5.0
CLEANUP_EVERY_S = 600.0
GARBAGE_EVERY_S = 5.0
STRAYS_EVERY_S = 60.0
CAPACITY_EVERY_S = 5.0
ROLLOUT_EVERY_S = 2.0
PRESSURE_EVERY_S = 2.0
NOTICES_EVERY_S = 5.0
LOST_EVERY_S = 5.0
ORPHANS_EVERY_S = 60.0
ORPHANS_S_MAX = 300.0
"""One round of theirs removes many parts, one call after the other."""
POOLS_EVERY_S = 30.0
SOURCE_EVERY_S = 30.0
SWEEP_EVERY_S = 3600.0


class Fleet:
    """Operations and loops of one replica (port of the HTTP edge: `dependencies.Lifecycle`)."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.engine = OperationEngine(plane, DEFINITIONS)
        self.leadership = Leadership(plane)
        self.reconciler = Reconciler(plane, self.engine)
        self.draining = DrainLoop(plane, self.engine.start)
        self.autoscaling = AutoscaleLoop(plane, self.engine.start)
        self.notices = NoticeLoop(plane)
        self.loops = LoopRunner(plane, self.leadership, self._loops())
        self._running: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self, *, with_loops: bool = True) -> AsyncIterator[Fleet]:
        """Run operations and loops within; at the end let others take over at once."""
        async with self.engine.running(), TaskGroup() as tasks:
            self._running = [tasks.create_task(self.loops.run())] if with_loops else []
            try:
                yield self
            finally:
                await self.retire()

    async def retire(self) -> None:
        """Lead no more and take nothing over; what runs here goes on. Twice is as good as once."""
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        # At once: a loop may take its time to end, and nobody leads meanwhile.
        await self.leadership.retire()

    async def create(self, order: CreateOrder) -> Sandbox:
        """Write row and operation, and run it."""
        return self._go_on(*await begin_create(self._plane, order))

    async def created(self, sandbox_id: SandboxId, operation_id: OperationId) -> Sandbox:
        """Find row and operation of an earlier attempt, and run what is ours of it."""
        return self._go_on(*await begun_create(self._plane, sandbox_id, operation_id))

    def _go_on(self, sandbox: Sandbox, operation: Operation | None) -> Sandbox:
        if operation is not None and operation.state is OperationState.RUNNING:
            self.engine.start(operation, sandbox=sandbox)
        return sandbox

    async def kill(self, sandbox: Sandbox, *, actor: str) -> Sandbox:
        """Stop the row, and run the operation that removes the VM."""

        def begin(operation: Operation) -> None:
            self.engine.look_again(sandbox.id)
            self.engine.start(operation)

        return await kill(self._plane, sandbox, actor=actor, begin=begin)

    async def resize(self, sandbox: Sandbox, wanted: NewSize, *, operation_id: str, actor: str) -> Operation:
        """Reserve, here or where there is room, write the operation, and run it."""
        operation = await begin_resize_or_move(
            self._plane, sandbox, wanted, operation_id=operation_id, actor=actor
        )
        self.engine.start(operation)
        return operation

    async def migrate(
        self, sandbox: Sandbox, *, target: WorkerId | None, operation_id: str, actor: str
    ) -> Operation:
        """Reserve at the target, write the row and the operation, and run it."""
        operation = await begin_migrate(
            self._plane, sandbox, target=target, operation_id=operation_id, actor=actor
        )
        self.engine.start(operation)
        return operation

    async def evict(self, worker_id: WorkerId, *, actor: str) -> Eviction:
        """Plan, reserve, write rows and operations, and run them."""
        return await evict(self._plane, worker_id, actor=actor, begin=self.engine.start)

    async def restart(self, sandbox: Sandbox, *, is_clean: bool, operation_id: str, actor: str) -> Operation:
        """Write the row and the operation, and run it."""
        operation = await begin_restart(
            self._plane, sandbox, is_clean=is_clean, operation_id=operation_id, actor=actor
        )
        self.engine.start(operation)
        return operation

    async def hibernate(self, sandbox: Sandbox, *, ids: Mapping[str, str], actor: str) -> Operation:
        """Write the row and the operation, and run it."""
        operation = await begin_hibernate(self._plane, sandbox, ids=ids, actor=actor)
        self.engine.start(operation)
        return operation

    async def wake(
        self,
        sandbox: Sandbox,
        *,
        actor: str,
        ids: Mapping[str, str] | None = None,
        timeout_s: int | None = None,
    ) -> Operation:
        """Write the row and the operation, and run it."""
        ids = ids or {"operation_id": operation_id(secrets.token_bytes(16))}
        after, operation = await begin_wake(self._plane, sandbox, ids=ids, actor=actor, timeout_s=timeout_s)
        self.engine.start(operation, sandbox=after)
        return operation

    async def checkpoint(
        self, sandbox: Sandbox, *, ids: Mapping[str, str], name: str, actor: str
    ) -> tuple[Checkpoint, Operation]:
        """Write checkpoint and operation, and run it."""
        checkpoint, operation = await begin_checkpoint(self._plane, sandbox, ids=ids, name=name, actor=actor)
        self.engine.start(operation)
        return checkpoint, operation

    async def restore(
        self, sandbox: Sandbox, checkpoint: Checkpoint, *, ids: Mapping[str, str], actor: str
    ) -> Operation:
        """Write the row and the operation, and run it."""
        operation = await begin_restore(self._plane, sandbox, checkpoint, ids=ids, actor=actor)
        self.engine.start(operation)
        return operation

    async def fork(
        self, sandbox: Sandbox, orders: Sequence[CreateOrder], *, ids: Mapping[str, str], is_partial: bool
    ) -> tuple[Operation, list[Sandbox]]:
        """Write the forks and their operations, and run them."""
        operation, created = await begin_fork(self._plane, sandbox, orders, ids=ids, is_partial=is_partial)
        self.engine.start(operation)
        for row, create in created:
            self.engine.start(create, sandbox=row)
        return operation, [row for row, _ in created]

    async def record_heartbeat(self, beat: Heartbeat) -> HeartbeatAnswer:
        """Write down what a worker says."""
        return await record_heartbeat(self._plane, beat)

    def _autoscale_loops(self) -> tuple[Loop, ...]:
        every_s = self._plane.settings.autoscale_interval_s
        if every_s == 0:
            return ()
        return (Loop("autoscale", every_s, lambda term: self.autoscaling.tick(term=term)),)

    def _loops(self) -> tuple[Loop, ...]:
        plane, engine = self._plane, self.engine
        every_s = plane.settings.loop_interval_s
        lead, take_over, notices = self.leadership.tick, takeover.tick, self.notices
        return (
            Loop("leadership", self.leadership.interval_s, lambda _: lead(), for_leader=False, topic=TOPIC),
            Loop(
                "takeover", every_s, lambda _: take_over(plane, engine), for_leader=False, topic=LET_GO_TOPIC
            ),
            Loop("expiry", every_s, lambda term: expiry.tick(plane, engine, term=term)),
            Loop("liveness", every_s, lambda term: liveness.tick(plane, term=term)),
            Loop("drain", every_s, lambda term: self.draining.tick(term=term)),
            *self._autoscale_loops(),
            *self._pressure_loops(),
            Loop("notices", NOTICES_EVERY_S, lambda term: notices.tick(term=term)),
            Loop("reconcile", RECONCILE_EVERY_S, lambda term: self.reconciler.tick(term=term)),
            Loop("garbage", GARBAGE_EVERY_S, lambda term: garbage.tick(plane, term=term)),
            Loop("strays", STRAYS_EVERY_S, lambda term: strays.tick(plane, term=term)),
            Loop("sweep", SWEEP_EVERY_S, lambda _: sweep.tick(plane)),
            Loop("cleanup", CLEANUP_EVERY_S, lambda _: cleanup.tick(plane)),
            *(self._machine_loops() if plane.pools else ()),
        )

    def _source_loops(self) -> tuple[Loop, ...]:
        if self._plane.version_source is None:
            return ()
        source = VersionSourceLoop(self._plane, self._plane.version_source)
        return (Loop("version_source", SOURCE_EVERY_S, lambda _: source.tick()),)

    def _trials(self) -> TrialLoop:
        def start(operation: Operation, sandbox: Sandbox) -> None:
            self.engine.start(operation, sandbox=sandbox)

        return TrialLoop(self._plane, start, lambda sandbox: self.kill(sandbox, actor=TRIAL_ACTOR))

    def _pressure_loops(self) -> tuple[Loop, ...]:
        if not self._plane.settings.pressure:
            return ()
        pressure = PressureLoop(self._plane, self.engine.start)
        return (Loop("pressure", PRESSURE_EVERY_S, lambda term: pressure.tick(term=term)),)

    def _machine_loops(self) -> tuple[Loop, ...]:
        capacity, rollout, trials = CapacityLoop(self._plane), RolloutLoop(self._plane), self._trials()
        return (
            Loop("rollout", ROLLOUT_EVERY_S, lambda term: rollout.tick(term=term)),
            Loop("trials", self._plane.settings.loop_interval_s, lambda term: trials.tick(term=term)),
            *self._source_loops(),
            Loop(
                "capacity",
                CAPACITY_EVERY_S,
                lambda term: capacity.tick(term=term),
                topic=QUEUE_TOPIC,
                is_due=capacity.is_due,
            ),
            Loop("pools", POOLS_EVERY_S, lambda _: look_for_pools(self._plane)),
            *(loop for pool in self._plane.pools.values() for loop in self._loops_of(pool)),
        )

    def _loops_of(self, pool: MachinePool) -> tuple[Loop, ...]:
        """Return the loops that ask a pool: a pool that hangs holds up its own alone."""
        every_s, notices = self._plane.settings.loop_interval_s, self.notices
        machines, orphans = MachineLoop(self._plane, pool), OrphanLoop(self._plane, pool)
        lost = LostWorkerLoop(self._plane, pool)
        return (
            Loop(f"machines {pool.name}", every_s, lambda term: machines.tick(term=term)),
            Loop(f"lost {pool.name}", LOST_EVERY_S, lambda term: lost.tick(term=term)),
            Loop(f"notices {pool.name}", NOTICES_EVERY_S, lambda _: notices.look(pool)),
            Loop(
                f"orphans {pool.name}",
                ORPHANS_EVERY_S,
                lambda term: orphans.tick(term=term),
                tick_s_max=ORPHANS_S_MAX,
            ),
        )
