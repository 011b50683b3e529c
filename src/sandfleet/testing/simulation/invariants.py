"""What must hold after every step, whatever goes wrong: looked at where the step is written.

Each check sees one write, or one event on a host, and knows all the rest of the world.
What it finds is kept, not raised: the run goes on for nobody and is stopped by who reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sandfleet.lifecycle.sandbox import TRANSITIONS
from sandfleet.model.checkpoint import CheckpointState
from sandfleet.model.drain import Drain, DrainState
from sandfleet.model.ids import SandboxId, SnapshotId, WorkerId
from sandfleet.model.operation import BACKGROUND_KINDS, Operation
from sandfleet.model.sandbox import TERMINAL_STATES, Sandbox, SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState
from sandfleet.model.transition import Transition
from sandfleet.model.worker import WorkerState
from sandfleet.testing.memory.database import MemoryDatabase, Reservation, SecondPlace
from sandfleet.testing.simulation.host import Host
from sandfleet.testing.simulation.place_watch import PlaceWatch
from sandfleet.testing.simulation.replica import Replica
from sandfleet.testing.simulation.size_watch import SizeWatch
from sandfleet.testing.simulation.trace import Trace
from sandfleet.testing.simulation.vm import RUNNING, ObjectStore, Vm
from sandfleet.testing.simulation.watcher import Watcher

if TYPE_CHECKING:
    from sandfleet.testing.simulation.world import World

MIDDLE_STATES = frozenset(
    {
        SandboxState.CREATING,
        SandboxState.HIBERNATING,
        SandboxState.WAKING,
        SandboxState.RESTORING,
        SandboxState.REBOOTING,
        SandboxState.MIGRATING,
    }
)
_NEVER_BACK = (SandboxState.STOPPED, SandboxState.FAILED)


class Findings:
    """What was found wrong, with the trace that led there."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.violations: list[str] = []

    def found(self, what: str) -> None:
        """Keep a violation."""
        self.trace.add("INVARIANT", what)
        self.violations.append(what)

    def require(self, holds: bool, what: str) -> None:
        """Keep a violation unless it holds."""
        if not holds:
            self.found(what)


class WatchedReservations(dict[SandboxId, Reservation]):
    """Reservations whose every change is looked at."""

    def __init__(self, watch: WatchedDatabase) -> None:
        super().__init__()
        self._watch = watch

    def __setitem__(self, sandbox_id: SandboxId, held: Reservation) -> None:
        super().__setitem__(sandbox_id, held)
        self._watch.look_at_worker(held.worker_id)
        self._watch.look_at_size(sandbox_id, held)
        self._watch.places.taken(sandbox_id, held.worker_id)

    def __delitem__(self, sandbox_id: SandboxId) -> None:
        held = self[sandbox_id]
        super().__delitem__(sandbox_id)
        self._watch.look_at_release(sandbox_id, held)

    def pop(self, sandbox_id: SandboxId, *default: Any) -> Any:
        """Remove it."""
        held = super().pop(sandbox_id, *default)
        if isinstance(held, Reservation):
            self._watch.look_at_release(sandbox_id, held)
        return held


class WatchedSecondPlaces(dict[SandboxId, SecondPlace]):
    """The other places of what moves: they count, and are given back with proof."""

    def __init__(self, watch: WatchedDatabase) -> None:
        super().__init__()
        self._watch = watch

    def __setitem__(self, sandbox_id: SandboxId, held: SecondPlace) -> None:
        super().__setitem__(sandbox_id, held)
        self._watch.look_at_worker(held.worker_id)
        self._watch.places.taken(sandbox_id, held.worker_id)

    def __delitem__(self, sandbox_id: SandboxId) -> None:
        held = self[sandbox_id]
        super().__delitem__(sandbox_id)
        self._watch.look_at_release(sandbox_id, held)


class WatchedDrains(dict[WorkerId, Drain]):
    """A worker that is called drained has promised nothing, and has nothing that is nowhere else."""

    def __init__(self, watch: WatchedDatabase) -> None:
        super().__init__()
        self._watch = watch

    def __setitem__(self, worker_id: WorkerId, drain: Drain) -> None:
        super().__setitem__(worker_id, drain)
        promised = self._watch.promised_mib(worker_id)
        is_true = drain.state is not DrainState.DRAINED or promised == 0
        self._watch.findings.require(is_true, f"{worker_id} is called drained, {promised} MiB are promised")
        alone = [
            one.id
            for one in self._watch.snapshots.values()
            if one.worker_id == worker_id and one.state in (SnapshotState.SAVING, SnapshotState.LOCAL)
        ]
        is_safe = drain.state is not DrainState.DRAINED or not alone
        self._watch.findings.require(is_safe, f"{worker_id} is called drained, and alone has {alone}")


class WatchedSnapshots(dict[SnapshotId, Snapshot]):
    """Rows of snapshots: what is called durable stands in the object store."""

    def __init__(self, watch: WatchedDatabase) -> None:
        super().__init__()
        self._watch = watch

    def __setitem__(self, snapshot_id: SnapshotId, snapshot: Snapshot) -> None:
        super().__setitem__(snapshot_id, snapshot)
        is_true = snapshot.state is not SnapshotState.DURABLE or snapshot_id in self._watch.objects.published
        self._watch.findings.require(is_true, f"{snapshot_id} is called durable and is not stored")


class WatchedDatabase(MemoryDatabase):
    """The database with a look at every write. A mutation stands between this and the real one."""

    findings: Findings
    hosts: Mapping[WorkerId, Host]
    objects: ObjectStore
    places: PlaceWatch
    replicas: Sequence[Replica] = ()

    def watch(self, world: World) -> None:
        """Begin to look."""
        self.findings, self.hosts, self.objects = world.findings, world.hosts, world.objects
        self.places = PlaceWatch(self, world)
        self.reservations = WatchedReservations(self)
        self.second_places = WatchedSecondPlaces(self)
        self.drains = WatchedDrains(self)
        self.snapshots = WatchedSnapshots(self)
        self._sizes = SizeWatch(world.findings, world.uses)

    def require_term(self, term: int | None) -> None:
        """Check it, and that the check was made."""
        super().require_term(term)
        is_old = term is not None and term != self.term
        self.findings.require(not is_old, f"an effect of term {term} happens in term {self.term}")

    def write_sandbox(self, sandbox: Sandbox) -> None:
        """Write it, and compare with what was there."""
        before = self.sandboxes[sandbox.id]
        super().write_sandbox(sandbox)
        require = self.findings.require
        require(sandbox.version == before.version + 1, f"{sandbox.id}: a write over a version that is over")
        require(sandbox.epoch >= before.epoch, f"{sandbox.id}: the epoch fell to {sandbox.epoch}")
        if before.state in TERMINAL_STATES:
            require(sandbox.state is before.state, f"{sandbox.id}: came back from {before.state}")
        legal = {before.state, *TRANSITIONS.get(before.state, {}).values()}
        require(sandbox.state in legal, f"{sandbox.id}: {before.state} became {sandbox.state}")
        is_bounded = sandbox.state not in MIDDLE_STATES or sandbox.deadline_at is not None
        require(is_bounded, f"{sandbox.id}: {sandbox.state} without a deadline")
        moved = before.worker_id != sandbox.worker_id and sandbox.worker_id is not None
        require(not moved or sandbox.epoch > before.epoch, f"{sandbox.id}: a new owner in an old epoch")
        if sandbox.scaling != before.scaling:
            self._sizes.settings_changed(sandbox.id)

    def insert_operation(self, operation: Operation) -> None:
        """Insert it, and look whether it is alone."""
        if operation.kind not in BACKGROUND_KINDS:
            others = [
                f"{one.operation.kind} {one.operation.id}"
                for one in self.open_operations(operation.sandbox_id)
                if one.operation.kind not in BACKGROUND_KINDS
            ]
            self.findings.require(
                not others, f"{operation.sandbox_id}: {operation.kind} {operation.id} beside {others}"
            )
        super().insert_operation(operation)

    def write_operation(self, operation: Operation) -> Operation:
        """Write it; an operation that has ended stays ended."""
        if operation.id not in self.running:
            self.findings.found(f"{operation.id} was written after its end")
            return operation
        token = operation.lease.token if operation.lease else -1
        is_ours = self.running[operation.id].token == token
        self.findings.require(is_ours, f"{operation.id} was written without its lease")
        runners = [
            one.process.name
            for one in self.replicas
            if one.fleet is not None
            and not one.process.is_dead
            and one.fleet.engine.lease_of(operation.id) == operation.lease
        ]
        self.findings.require(len(runners) <= 1, f"{operation.id} is run by {runners} in one lease")
        return super().write_operation(operation)

    def log(self, transition: Transition) -> None:
        """Log it, in the trace as well."""
        super().log(transition)
        self.places.look(transition)
        begun = self.running.get(transition.operation_id) if transition.operation_id else None
        if begun is not None and transition.sandbox_id is not None:
            self._sizes.look(self.sandboxes[transition.sandbox_id], begun.operation, transition)
        about = transition.sandbox_id or transition.worker_id
        change = f"{transition.from_state or '-'} -> {transition.to_state or '-'}"
        where = f" on {transition.worker_id}" if transition.sandbox_id and transition.worker_id else ""
        self.findings.trace.add(
            "store",
            f"{about} {transition.event}: {change}, epoch {transition.epoch}{where}"
            f" (by {transition.actor}: {transition.reason})",
        )

    # --- looks

    def is_gone(self, worker_id: WorkerId) -> bool:
        """Whether somebody has said that the host is no more."""
        worker = self.workers.get(worker_id)
        return worker is not None and worker.state is WorkerState.GONE

    def promised_mib(self, worker_id: WorkerId) -> int:
        """Return what all places on a worker amount to."""
        places: list[Reservation | SecondPlace] = list(self.reservations.values())
        places += self.second_places.values()
        return sum(one.resources.memory_mib for one in places if one.worker_id == worker_id)

    def look_at_worker(self, worker_id: WorkerId) -> None:
        """Nothing is promised twice."""
        promised = self.promised_mib(worker_id)
        total = self.workers[worker_id].total.memory_mib
        self.findings.require(
            promised <= total, f"{worker_id}: {promised} MiB are promised of {total} MiB that it has"
        )

    def look_at_size(self, sandbox_id: SandboxId, held: Reservation) -> None:
        """No VM has more than was reserved for it."""
        vm = self.hosts[held.worker_id].vms.get(sandbox_id)
        if vm is not None:
            self.findings.require(
                vm.memory_mib <= held.resources.memory_mib,
                f"{sandbox_id}: {held.resources.memory_mib} MiB reserved, its VM has {vm.memory_mib}",
            )

    def look_at_release(self, sandbox_id: SandboxId, held: Reservation | SecondPlace) -> None:
        """A place is free when its VM is gone, or its worker by somebody's word, not before."""
        vm = None if self.is_gone(held.worker_id) else self.hosts[held.worker_id].vms.get(sandbox_id)
        self.places.released(sandbox_id, held.worker_id)
        self.findings.require(vm is None, f"{sandbox_id}: released while {held.worker_id} has its VM")

    def why_needed(self, snapshot_id: str) -> str | None:
        """Return who would lose something with this artefact, None when nobody does."""
        for row in self.sandboxes.values():
            if row.snapshot_id == snapshot_id and row.state not in _NEVER_BACK:
                return f"sandbox {row.id}, which is {row.state}"
        for checkpoint in self.checkpoints.values():
            if checkpoint.snapshot_id == snapshot_id and checkpoint.state is not CheckpointState.FAILED:
                return f"checkpoint {checkpoint.id}"
        return self._why_last(self.snapshots.get(SnapshotId(snapshot_id)))

    def _why_last(self, snapshot: Snapshot | None) -> str | None:
        if snapshot is None or snapshot.state is not SnapshotState.DURABLE:
            return None
        owner = self.sandboxes.get(snapshot.sandbox_id)
        if owner is None or owner.is_terminal or owner.snapshot_id in (None, snapshot.id):
            return None
        newer = self.snapshots.get(owner.snapshot_id) if owner.snapshot_id else None
        if newer is not None and newer.state is not SnapshotState.DURABLE:
            return f"sandbox {owner.id}, whose newer state {newer.id} is {newer.state}"
        return None


class WorldWatcher(Watcher):
    """Looks at what happens on hosts."""

    def __init__(self, findings: Findings, database: WatchedDatabase, hosts: Mapping[WorkerId, Host]) -> None:
        self._findings = findings
        self._database = database
        self._hosts = hosts

    def started(self, host: Host, vm: Vm) -> None:
        """One owner: no other host runs it under this epoch; and the host has the room."""
        self._findings.trace.add(host.process.name, f"{vm.sandbox_id} runs, epoch {vm.epoch}")
        for other in self._hosts.values():
            twin = other.vms.get(vm.sandbox_id)
            is_twin = twin is not None and twin is not vm and twin.state == RUNNING and twin.epoch == vm.epoch
            self._findings.require(
                not is_twin,
                f"{vm.sandbox_id} runs twice in epoch {vm.epoch}: {host.worker_id}, {other.worker_id}",
            )
        self._look_alone(host, vm)
        committed, total = host.committed_mib, host.total.memory_mib
        self._findings.require(committed <= total, f"{host.worker_id} runs {committed} MiB of {total} MiB")

    def goes_on(self, host: Host, vm: Vm) -> None:
        """A move that was called back: nobody runs it elsewhere."""
        self._findings.trace.add(host.process.name, f"{vm.sandbox_id} goes on, epoch {vm.epoch}")
        self._look_alone(host, vm)

    def _look_alone(self, host: Host, vm: Vm) -> None:
        """Of the two ends of one move one runs: the younger came under the epoch after the older's."""
        for other in self._hosts.values():
            twin = other.vms.get(vm.sandbox_id)
            if other is host or twin is None or twin.state != RUNNING:
                continue
            older, younger = sorted((vm, twin), key=lambda one: one.epoch)
            are_ends = bool(younger.arriving) and younger.epoch == older.epoch + 1
            self._findings.require(
                not are_ends,
                f"{vm.sandbox_id} runs at both ends of a move: {host.worker_id}, {other.worker_id}",
            )

    def ended(self, host: Host, vm: Vm) -> None:
        """Note it."""
        self._findings.trace.add(host.process.name, f"{vm.sandbox_id} is gone, epoch {vm.epoch}")

    def noted(self, host: Host, what: str) -> None:
        """Note it."""
        self._findings.trace.add(host.process.name, what)
