"""What a host does with moves: receive, send, land, commit, stay, release and abandon.

It keeps the promises of `wire.move_messages` as `worker/operations` does. QEMU outlives the worker: what
has been handed over is so whoever asks; what only the process knew (who asked, what was given up) is gone
with it, and the next one calls back what has not begun to stand still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from sandfleet.model.errors import Conflict, HypervisorFailed, NoCapacity, NotFound, StaleEpoch
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.testing.fake_snapshots import a_saved_vm
from sandfleet.testing.simulation.host import Host, settled
from sandfleet.testing.simulation.vm import (
    ARRIVING,
    DEAD,
    MOVING,
    RUNNING,
    SAVING,
    STOPPING,
    Departure,
    Vm,
)
from sandfleet.wire.move_manifest import Landing, MovedDisk, MoveManifest
from sandfleet.wire.move_messages import (
    AT_HOME,
    DECISIVE,
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

MOVES_MAX = 2
FAILED_SHARE = 0.1
UNDECIDED_SHARE = 0.15
NOT_LANDED_SHARE = 0.08
_DISK = MovedDisk(size_bytes=1 << 30, backings=["digest-1"])


@dataclass
class Moves:
    """The verbs of one host; `hosts` are all, to send to."""

    host: Host
    hosts: Mapping[WorkerId, Host]
    given_up: set[tuple[int, str]] = field(default_factory=set)
    """Moves to or from here that are over, with the process that knows it."""

    def __post_init__(self) -> None:
        self.host.moves_crashed = self.crashed
        self.host.moves_adopted = self.adopted

    async def describe(self, sandbox_id: SandboxId, epoch: int) -> MoveManifest:
        """Return what the target must know."""
        self.host.require_adopted()
        vm = self.host.serving(sandbox_id, epoch)
        self.host.require_open(vm)
        saved = a_saved_vm("sn-none", self.host.status(vm)).manifest
        return MoveManifest(
            owner=sandbox_id,
            epoch=epoch,
            template="base",
            template_version=saved.template_version,
            image_digest=saved.image_digest,
            memory_mib=vm.memory_mib,
            cpu_count=saved.cpu_count,
            disk_mib=saved.disk_mib,
            network_enabled=True,
            shape=saved.shape,
            root=_DISK,
            data=_DISK,
        )

    async def publish(self, sandbox_id: SandboxId, epoch: int) -> BackingsPublished:
        """Have what its disks stand on in the object store."""
        self.host.require_adopted()
        self.host.serving(sandbox_id, epoch)
        return BackingsPublished(digests=["digest-1"], new_bytes=0)

    # --- the target

    async def receive(self, move_id: str, order: ReceiveMove) -> Landing:
        """Have the place; the same move twice is one."""
        host = self.host
        host.require_adopted()
        self._refuse_given_up(move_id)
        vm = self._arriving(move_id)
        if vm is None:
            vm = await self._expect(move_id, order)
        if vm.starting is not None:
            await settled(vm.starting)
        if vm.state != ARRIVING or host.vms.get(vm.sandbox_id) is not vm:
            raise Conflict(f"move {move_id} has ended here", code="busy")
        return Landing(host="127.0.0.1", memory_port=1, disk_port=2, key="k", may_post_copy=False)

    async def _expect(self, move_id: str, order: ReceiveMove) -> Vm:
        host, sandbox_id = self.host, SandboxId(order.sandbox_id)
        known = host.vms.get(sandbox_id)
        if known is not None:
            if known.epoch > order.manifest.epoch or known.state in (ARRIVING, RUNNING):
                raise Conflict(f"{sandbox_id} is here under epoch {known.epoch}", code="busy")
            await host.end(known)
        self._refuse_given_up(move_id)
        if sum(one.state == ARRIVING for one in host.vms.values()) >= MOVES_MAX:
            raise NoCapacity("others are coming already")
        if host.committed_mib + order.manifest.memory_mib > host.total.memory_mib:
            raise NoCapacity(f"short of {order.manifest.memory_mib} MiB")
        if sandbox_id in host.vms:
            raise Conflict(f"{sandbox_id} is coming here by another move", code="busy")
        vm = Vm(sandbox_id, order.epoch, order.manifest.memory_mib, state=ARRIVING, arriving=move_id)
        host.vms[sandbox_id] = vm
        vm.starting = host.task(self._make(vm), name=f"receive {sandbox_id}")
        return vm

    async def _make(self, vm: Vm) -> None:
        await asyncio.sleep(0.05 + 0.5 * self.host.dice.random() ** 2)
        vm.is_made = True
        vm.starting = None

    async def landed(self, move_id: str) -> MoveState:
        """Say that it could run here, or raise what keeps it from that."""
        self.host.require_adopted()
        vm = self._arriving(move_id)
        if vm is None or vm.state in (STOPPING, DEAD):
            raise NotFound(f"nothing comes by move {move_id}", code="no_such_move")
        if vm.state == ARRIVING and not vm.is_loaded:
            raise HypervisorFailed("the machine has not arrived")
        if vm.state == ARRIVING and vm.starting is None and self.host.dice.random() < NOT_LANDED_SHARE:
            vm.state = DEAD
            raise HypervisorFailed("the machine has ended on its arrival")
        step = LANDED if vm.state == ARRIVING else AT_HOME
        return MoveState(move_id=move_id, sandbox_id=vm.sandbox_id, step=step)

    async def commit(self, move_id: str, order: CommitMove) -> VmStatus:
        """Run it; may be repeated."""
        host = self.host
        host.require_adopted()
        vm = host.vms.get(SandboxId(order.sandbox_id))
        if vm is None:
            raise NotFound(f"nothing comes by move {move_id}", code="no_such_move")
        if vm.epoch != order.epoch:
            raise StaleEpoch(f"{order.sandbox_id} is here under epoch {vm.epoch}")
        if vm.state == ARRIVING:
            if vm.arriving != move_id or not vm.is_loaded:
                raise NotFound(f"it does not come by move {move_id}", code="no_such_move")
            if vm.starting is None:
                vm.starting = host.task(self._take_over(vm), name=f"commit {move_id}")
            await settled(vm.starting)
        return host.status(vm)

    async def _take_over(self, vm: Vm) -> None:
        await asyncio.sleep(0.02 + 0.2 * self.host.dice.random())
        if vm.state == ARRIVING:
            self.host.run(vm)

    async def abandon(self, move_id: str) -> MoveAbandoned:
        """Have nothing of it here, nor ever again."""
        host = self.host
        host.require_adopted()
        vm = self._arriving(move_id)
        if vm is not None and vm.state in (RUNNING, SAVING, MOVING):
            raise Conflict(f"{vm.sandbox_id} is at home here", code="committed")
        self._give_up(move_id)
        if vm is not None:
            await host.end(vm, is_over=False)
        return MoveAbandoned(move_id=move_id, existed=vm is not None)

    # --- the source

    async def send(self, sandbox_id: SandboxId, order: SendMove) -> MoveState:
        """Begin, or join; return when something decisive is known or the time is over."""
        host = self.host
        host.require_adopted()
        vm = self._here(sandbox_id, order.epoch)
        departure = vm.departure
        if departure is None or departure.move_id != order.move_id:
            departure = self._begin(vm, order)
        elif departure.step == UNDECIDED:
            self._decide(vm, departure)
        if departure.step not in DECISIVE and order.wait_s > 0 and departure.sending is not None:
            await asyncio.wait({departure.sending}, timeout=order.wait_s)
        return MoveState(move_id=order.move_id, sandbox_id=sandbox_id, step=departure.step, way="precopy")

    def _begin(self, vm: Vm, order: SendMove) -> Departure:
        host = self.host
        self._refuse_given_up(order.move_id)
        if vm.state != RUNNING or vm.successor is not None:
            raise Conflict(f"{vm.sandbox_id} is {vm.state}", code="busy")
        leaving = [one.departure for one in host.vms.values() if one.departure is not None]
        if vm.departure in leaving and vm.departure is not None and vm.departure.step not in DECISIVE:
            raise Conflict(f"{vm.sandbox_id} is moving already", code="busy")
        if sum(one.step not in DECISIVE for one in leaving) >= MOVES_MAX:
            raise NoCapacity("others are leaving already")
        departure = vm.departure = Departure(order.move_id)
        target = self.hosts[WorkerId(order.target_worker)]
        departure.sending = host.task(self._send(vm, departure, target), name=f"send {vm.sandbox_id}")
        return departure

    async def _send(self, vm: Vm, departure: Departure, target: Host) -> None:
        dice = self.host.dice
        await asyncio.sleep(0.1 + 2.0 * dice.random() ** 2)
        departure.step = "memory"
        if vm.state != RUNNING or dice.random() < FAILED_SHARE or _landing(target, departure) is None:
            departure.step = FAILED
            return
        vm.state, vm.departing = MOVING, departure.move_id
        self.host.watcher.noted(self.host, f"{vm.sandbox_id} stands still for move {departure.move_id}")
        await asyncio.sleep(0.02 + 0.1 * dice.random())
        self._hand_over(vm, target)
        is_silent = dice.random() < UNDECIDED_SHARE
        if is_silent:
            departure.step = UNDECIDED
        else:
            self._decide(vm, departure)

    def _hand_over(self, vm: Vm, target: Host) -> None:
        """What QEMU does by itself, whether its worker lives or not: all of it goes over, or nothing."""
        place = target.vms.get(vm.sandbox_id)
        is_there = place is not None and place.arriving == vm.departing and place.state == ARRIVING
        if place is None or not is_there or vm.state != MOVING:
            return
        vm.is_handed_over = self.host.dice.random() >= FAILED_SHARE
        # Also of a move that has failed the target may think that it has all of it.
        if vm.is_handed_over or self.host.dice.random() < 0.5:
            place.written, place.is_loaded = vm.written, True

    def _decide(self, vm: Vm, departure: Departure) -> None:
        """Say what it has come to."""
        if vm.state != MOVING:
            departure.step = FAILED
        elif vm.is_handed_over:
            departure.step = READY
        else:
            departure.step = FAILED
            self._go_on(vm)

    async def stay(self, sandbox_id: SandboxId, order: EndMove) -> VmStatus:
        """Have it run here, whatever its move has come to."""
        host = self.host
        host.require_adopted()
        self._give_up(order.move_id)
        known = host.vms.get(sandbox_id)
        if known is not None and 0 < order.under == known.epoch and known.state == RUNNING:
            return host.status(known)
        vm, departure = self._moving(sandbox_id, order)
        if departure.sending is not None and not departure.sending.done():
            departure.sending.cancel()
            await settled(departure.sending)
        await asyncio.sleep(0.02 * host.dice.random())
        if vm.state == MOVING:
            vm.epoch = max(vm.epoch, order.under)
            self._go_on(vm)
            departure.step = STAYED
        return host.status(vm)

    async def release(self, sandbox_id: SandboxId, order: EndMove) -> VmStopped:
        """Have nothing of it left here."""
        host = self.host
        host.require_adopted()
        vm = host.vms.get(sandbox_id)
        if vm is None or vm.epoch > order.epoch:
            host.bury(sandbox_id, order.epoch)
            return VmStopped(sandbox_id=sandbox_id, existed=False)
        vm, departure = self._moving(sandbox_id, order)
        if vm.state == RUNNING or departure.step not in (READY, UNDECIDED):
            raise Conflict(f"{sandbox_id} has not been handed over", code="busy")
        await host.end(vm)
        return VmStopped(sandbox_id=sandbox_id, existed=True)

    def crashed(self) -> None:
        """Leave moves as QEMU and the disk have them when the worker's process is gone."""
        for vm in list(self.host.vms.values()):
            departure, vm.departure = vm.departure, None
            if vm.state == MOVING and departure is not None and not vm.is_handed_over:
                target = next((one for one in self.hosts.values() if _landing(one, departure)), None)
                if target is not None:
                    self._hand_over(vm, target)
            if vm.state == ARRIVING:
                vm.starting = None
                if not vm.is_made:
                    self.host.remove(vm)

    def adopted(self) -> None:
        """Keep what is half way as it is: which side counts is not decided here."""
        for vm in self.host.vms.values():
            if vm.state == MOVING:
                vm.departure = Departure(vm.departing, step=UNDECIDED)

    def _go_on(self, vm: Vm) -> None:
        vm.departing, vm.is_handed_over = "", False
        self.host.watcher.goes_on(self.host, vm)
        self.host.run(vm)

    def _here(self, sandbox_id: SandboxId, epoch: int) -> Vm:
        vm = self.host.vms.get(sandbox_id)
        if vm is None:
            raise NotFound(f"{sandbox_id} is not on this worker")
        if vm.epoch != epoch:
            raise StaleEpoch(f"{sandbox_id} is here under epoch {vm.epoch}, not {epoch}")
        return vm

    def _moving(self, sandbox_id: SandboxId, order: EndMove) -> tuple[Vm, Departure]:
        self.host.require_adopted()
        vm = self._here(sandbox_id, order.epoch)
        if vm.departure is None or vm.departure.move_id != order.move_id:
            raise NotFound(f"{sandbox_id} does not leave by move {order.move_id}", code="no_such_move")
        return vm, vm.departure

    def _arriving(self, move_id: str) -> Vm | None:
        return next((one for one in self.host.vms.values() if one.arriving == move_id), None)

    def _give_up(self, move_id: str) -> None:
        self.given_up.add((self.host.incarnation, move_id))

    def _refuse_given_up(self, move_id: str) -> None:
        if (self.host.incarnation, move_id) in self.given_up:
            raise StaleEpoch(f"move {move_id} was given up here")


def _landing(target: Host, departure: Departure) -> Vm | None:
    """Return what expects this move there."""
    arriving = (one for one in target.vms.values() if one.arriving == departure.move_id)
    return next((one for one in arriving if one.state == ARRIVING and one.is_made), None)
