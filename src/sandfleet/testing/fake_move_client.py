"""Moves between the workers in memory, behind the port that the control plane calls (`ports.move_client`).

They keep what `wire.move_messages` promises, and watch what matters most: a sandbox that runs at one worker
is never begun at another. Whoever does that finds it in `violations`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from sandfleet.model.errors import (
    Conflict,
    HypervisorFailed,
    MoveUndecided,
    NotFound,
    SandfleetError,
    StaleEpoch,
)
from sandfleet.model.ids import SandboxId
from sandfleet.ports.move_client import WorkerAddress
from sandfleet.testing.fake_snapshots import a_saved_vm
from sandfleet.testing.fake_worker_client import FakeHost, FakeWorkerClient
from sandfleet.wire.move_manifest import Landing, MovedDisk, MoveManifest
from sandfleet.wire.move_messages import (
    AT_HOME,
    FAILED,
    LANDED,
    READY,
    STAYED,
    UNDECIDED,
    BackingsPublished,
    CommitMove,
    EndMove,
    MoveAbandoned,
    MoveState,
    ReceiveMove,
    SendMove,
)
from sandfleet.wire.worker_messages import VmStatus, VmStopped

RUNNING, MOVING = "running", "moving"
STOOD_STILL_AT_S = 1.0


@dataclass
class _Place:
    """What a target has made for one move."""

    order: ReceiveMove
    vm: VmStatus | None = None
    """What has landed."""


@dataclass
class FakeMoveClient:
    """All moves of the fleet, and what is wrong with them."""

    workers: FakeWorkerClient
    ends_with: str = READY
    """What the source says of the next move that it begins: ready, failed, or undecided (then ready)."""
    receive_failure: SandfleetError | None = None
    landing_failure: SandfleetError | None = None
    is_torn: bool = False
    """Whether memory followed its guest when the sides were torn apart: the source cannot run it either."""
    places: dict[tuple[str, str], _Place] = field(default_factory=dict)
    departures: dict[tuple[str, SandboxId], MoveState] = field(default_factory=dict)
    given_up: set[tuple[str, str]] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    published: int = 0

    async def describe_vm(self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int) -> MoveManifest:
        """Return what the target must know."""
        vm = self._served(source, sandbox_id, epoch)
        saved = a_saved_vm("sn-none", vm).manifest
        disk = MovedDisk(size_bytes=1 << 30, backings=["digest-1"])
        return MoveManifest(
            owner=sandbox_id,
            epoch=epoch,
            template="base",
            template_version="digest-1",
            image_digest="image-1",
            memory_mib=vm.memory_mib,
            cpu_count=vm.cpu_count,
            disk_mib=vm.disk_mib,
            network_enabled=True,
            shape=saved.shape,
            root=disk,
            data=disk,
        )

    async def publish_backings(
        self, source: WorkerAddress, sandbox_id: SandboxId, *, epoch: int
    ) -> BackingsPublished:
        """Have them there."""
        self._served(source, sandbox_id, epoch)
        self.published += 1
        return BackingsPublished(digests=["digest-1"], new_bytes=0)

    async def receive_move(self, target: WorkerAddress, move_id: str, order: ReceiveMove) -> Landing:
        """Make the place once, unless `receive_failure` is raised once."""
        host, key = self._host(target), (target.worker_id, move_id)
        if key in self.given_up:
            raise StaleEpoch(f"move {move_id} was given up here")
        failure, self.receive_failure = self.receive_failure, None
        if failure is not None:
            raise failure
        if key not in self.places:
            if order.sandbox_id in host.vms:
                raise Conflict(f"sandbox {order.sandbox_id} is here", code="busy")
            self.places[key] = _Place(order)
        return Landing(host="127.0.0.1", memory_port=1, disk_port=2, key="k", may_post_copy=False)

    async def send_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Begin, or join."""
        host, key = self._host(source), (source.worker_id, sandbox_id)
        vm = host.vms.get(sandbox_id)
        if vm is None:
            raise NotFound(f"no machine of {sandbox_id}")
        if vm.epoch != order.epoch:
            raise StaleEpoch(f"{sandbox_id} is here under epoch {vm.epoch}")
        known = self.departures.get(key)
        if known is not None and known.move_id == order.move_id:
            if known.step == UNDECIDED:
                self.departures[key] = msgspec.structs.replace(known, step=READY)
            return self.departures[key]
        if vm.state != RUNNING:
            raise Conflict(f"sandbox {sandbox_id} is {vm.state}", code="busy")
        step = self.ends_with
        if step != FAILED:
            host.vms[sandbox_id] = msgspec.structs.replace(vm, state=MOVING)
        # Also of a move that has failed the target may think that it has all of it.
        self.places[order.target_worker, order.move_id].vm = vm
        self.departures[key] = MoveState(
            move_id=order.move_id,
            sandbox_id=sandbox_id,
            step=step,
            way="precopy",
            round=3,
            said="as the test wants it",
            stood_still_at_s=STOOD_STILL_AT_S,
        )
        return self.departures[key]

    async def landed(self, target: WorkerAddress, move_id: str) -> MoveState:
        """Say whether it could run."""
        self._host(target)
        place = self._place(target, move_id)
        if self.landing_failure is not None:
            raise self.landing_failure
        if place.vm is None:
            raise HypervisorFailed("the machine has not arrived")
        host = self._host(target)
        at_home = host.vms.get(SandboxId(place.order.sandbox_id)) is not None
        step = AT_HOME if at_home else LANDED
        return MoveState(move_id=move_id, sandbox_id=place.order.sandbox_id, step=step)

    async def commit_move(self, target: WorkerAddress, move_id: str, order: CommitMove) -> VmStatus:
        """Run it."""
        host = self._host(target)
        sandbox_id = SandboxId(order.sandbox_id)
        known = host.vms.get(sandbox_id)
        if known is not None and known.epoch == order.epoch:
            return known
        place = self._place(target, move_id)
        if place.vm is None:
            raise HypervisorFailed("the machine has not arrived")
        self._begins(target, sandbox_id)
        self._was_let_go(move_id)
        host.vms[sandbox_id] = msgspec.structs.replace(place.vm, epoch=order.epoch, state=RUNNING)
        return host.vms[sandbox_id]

    async def stay(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStatus:
        """Run on."""
        host = self._host(source)
        departure = self.departures.get((source.worker_id, sandbox_id))
        if departure is None or departure.move_id != order.move_id:
            raise NotFound(f"{sandbox_id} does not leave by move {order.move_id}", code="no_such_move")
        vm = host.vms[sandbox_id]
        if vm.state == MOVING and self.is_torn:
            raise MoveUndecided("the connection to the target broke while memory followed its guest")
        if vm.state == MOVING:
            self._begins(source, sandbox_id)
            epoch = max(vm.epoch, order.under)
            vm = host.vms[sandbox_id] = msgspec.structs.replace(vm, state=RUNNING, epoch=epoch)
        self.departures[source.worker_id, sandbox_id] = msgspec.structs.replace(departure, step=STAYED)
        return vm

    async def release_move(self, source: WorkerAddress, sandbox_id: SandboxId, order: EndMove) -> VmStopped:
        """Have nothing left."""
        host = self._host(source)
        vm = host.vms.get(sandbox_id)
        if vm is None or vm.epoch > order.epoch:
            return VmStopped(sandbox_id=sandbox_id, existed=False)
        departure = self.departures.get((source.worker_id, sandbox_id))
        if departure is None or departure.step != READY:
            raise Conflict(f"sandbox {sandbox_id} has not been handed over", code="busy")
        del host.vms[sandbox_id]
        return VmStopped(sandbox_id=sandbox_id, existed=True)

    async def abandon_move(self, target: WorkerAddress, move_id: str) -> MoveAbandoned:
        """Have nothing left, for ever."""
        host, key = self._host(target), (target.worker_id, move_id)
        place = self.places.get(key)
        if place is not None:
            vm = host.vms.get(SandboxId(place.order.sandbox_id))
            if vm is not None and vm.state == RUNNING:
                raise Conflict(f"sandbox {place.order.sandbox_id} is at home here", code="committed")
            host.vms.pop(SandboxId(place.order.sandbox_id), None)
        self.given_up.add(key)
        return MoveAbandoned(move_id=move_id, existed=self.places.pop(key, None) is not None)

    def _host(self, worker: WorkerAddress) -> FakeHost:
        return self.workers.answering(worker.worker_id)

    def _served(self, source: WorkerAddress, sandbox_id: SandboxId, epoch: int) -> VmStatus:
        vm = self._host(source).vms.get(sandbox_id)
        if vm is None or vm.epoch != epoch:
            raise StaleEpoch("the sandbox is not here under that epoch")
        if vm.state != RUNNING:
            raise Conflict(f"sandbox {sandbox_id} is {vm.state}", code="busy")
        return vm

    def _place(self, target: WorkerAddress, move_id: str) -> _Place:
        place = self.places.get((target.worker_id, move_id))
        if place is None:
            raise NotFound(f"nothing comes to this worker by move {move_id}", code="no_such_move")
        return place

    def _was_let_go(self, move_id: str) -> None:
        """Note a commit of what its source may still run by itself."""
        for (name, sandbox_id), departure in self.departures.items():
            is_there = sandbox_id in self.workers.host(name).vms
            if departure.move_id == move_id and departure.step != READY and is_there:
                self.violations.append(f"{sandbox_id} is committed while {name} says {departure.step}")

    def _begins(self, worker: WorkerAddress, sandbox_id: SandboxId) -> None:
        """Note a second copy that would run."""
        for name, host in self.workers.hosts.items():
            vm = host.vms.get(sandbox_id)
            if name != worker.worker_id and vm is not None and vm.state == RUNNING:
                self.violations.append(f"{sandbox_id} is begun at {worker.worker_id} and runs at {name}")
