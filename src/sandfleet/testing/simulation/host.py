"""One host: its VMs outlive its worker's process; what the process alone knew goes with it.

It keeps the promises of `worker/operations`: the same epoch twice is one start, what was
stopped is buried, a save is complete or the VM runs on, and while the process still looks
through its host it says so and proves nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sandfleet.model.errors import (
    Conflict,
    Gone,
    HypervisorFailed,
    NoCapacity,
    NotFound,
    NotReady,
    StaleEpoch,
)
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.resources import Resources
from sandfleet.testing.simulation.host_beat import VERSION, heartbeat_of
from sandfleet.testing.simulation.loop import Process, VirtualLoop
from sandfleet.testing.simulation.vm import (
    ARRIVING,
    DEAD,
    MOVING,
    RUNNING,
    STARTING,
    STOPPING,
    Artefact,
    ObjectStore,
    Vm,
)
from sandfleet.testing.simulation.watcher import Watcher
from sandfleet.wire.worker_messages import Heartbeat, HeartbeatAnswer, StartVm, StopVm, VmStatus, VmStopped
from sandfleet.worker.size_orders import SizeOrders

T = TypeVar("T")


@dataclass
class Host:
    """A machine with its worker. `process` is the worker's; it may be killed and is made anew."""

    worker_id: WorkerId
    loop: VirtualLoop
    dice: random.Random
    total: Resources
    store: ObjectStore
    watcher: Watcher
    machine_id: str = ""
    """What its machine is called, if not as its worker."""
    incarnation: int = 0
    is_adopted: bool = False
    is_burnt: bool = False
    version: str = "1"
    is_lame: bool = False  # nothing starts here
    is_deaf: bool = False  # no command succeeds here
    term: int = 0
    sequence: int = 0
    neighbours_mib: int = 0
    """What else uses the host's memory."""
    process: Process = field(init=False)
    vms: dict[SandboxId, Vm] = field(default_factory=dict)
    saved: dict[str, Artefact] = field(default_factory=dict)
    buried: dict[SandboxId, int] = field(default_factory=dict)
    captures: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    uploads: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    upload_failures: dict[str, str] = field(default_factory=dict)
    wanted: dict[str, None] = field(default_factory=dict)
    """Uploads that were asked for and are not achieved: kept beside the files."""
    named_before: frozenset[str] = frozenset()
    fetch: Callable[[str], Awaitable[Artefact]] = field(init=False, repr=False)
    """Brings an artefact from the object store. `host_saves` sets the next, `host_moves` the last."""
    used_mib: Callable[[SandboxId], int] = field(repr=False, default=lambda _: 0)
    """What the users of a guest need."""
    begin_upload: Callable[[str], None] = field(init=False, repr=False)
    moves_crashed: Callable[[], None] = field(init=False, repr=False, default=lambda: None)
    moves_adopted: Callable[[], None] = field(init=False, repr=False, default=lambda: None)

    def __post_init__(self) -> None:
        self.process = Process(self.worker_id)
        self.process.is_dead = True

    @property
    def is_up(self) -> bool:
        """Whether the worker's process runs."""
        return not self.process.is_dead

    def begin(self) -> None:
        """Start the worker's process, which looks through its host first."""
        self.incarnation += 1
        self.process = Process(f"{self.worker_id}.{self.incarnation}")
        self.process.start(self.loop, self._adopt(), name="adopt")

    def crash(self) -> None:
        """Kill the worker's process: VMs run on, what was half done is as the host finds it."""
        self.process.kill(self.loop)
        self.is_adopted = False
        self.sequence = 0
        for table in (self.buried, self.captures, self.uploads, self.upload_failures):
            table.clear()
        self.named_before = frozenset()
        self.moves_crashed()
        for vm in list(self.vms.values()):
            if vm.state not in (MOVING, ARRIVING):
                self._half_done(vm)

    def burn(self) -> None:
        """Be no more, with all that it held."""
        self.is_burnt = True
        self.crash()
        self.vms.clear()
        self.saved.clear()
        self.wanted.clear()

    def _half_done(self, vm: Vm) -> None:
        """Leave a VM as it would be found: started or not, saved or not, ended or not."""
        is_there = self.dice.random() < 0.5
        if vm.state == STARTING and not vm.is_loaded:
            is_there = False
        successor, vm.successor = vm.successor, None
        vm.saving = None
        vm.resizing, vm.sizes = asyncio.Lock(), SizeOrders()
        vm.refused.clear()
        if successor is not None and successor.is_loaded and is_there:
            self._replace(vm, successor)
        elif vm.saving_to in self.saved or (vm.state in (STARTING, STOPPING) and not is_there):
            if vm.restarted and vm.state == STARTING:
                self.run(vm)
            else:
                self.remove(vm)
        elif vm.state not in (RUNNING, DEAD):
            self.run(vm)

    async def _adopt(self) -> None:
        await asyncio.sleep(0.2 + self.dice.random())
        self.moves_adopted()
        self.is_adopted = True
        for snapshot_id in [one for one in self.wanted if one in self.saved]:
            self.begin_upload(snapshot_id)

    # --- what VMs go through

    def run(self, vm: Vm) -> None:
        """Serve it."""
        is_new = (vm.state == STARTING and not vm.restarted) or vm.state == ARRIVING
        vm.state = RUNNING
        vm.starting = None
        vm.idle_since = self.loop.time()
        if is_new:
            self.watcher.started(self, vm)

    def remove(self, vm: Vm) -> None:
        """Hold nothing of it any more."""
        if self.vms.get(vm.sandbox_id) is vm:
            del self.vms[vm.sandbox_id]
        self.watcher.ended(self, vm)

    def _replace(self, vm: Vm, successor: Vm) -> None:
        self.remove(vm)
        self.vms[vm.sandbox_id] = successor
        self.run(successor)

    def require_adopted(self) -> None:
        """Raise NotReady while the host is not known."""
        if not self.is_adopted:
            raise NotReady("the worker is still looking for the VMs of its host")

    def require_term(self, term: int) -> None:
        """Refuse an older term than the newest that was seen."""
        if term and term < self.term:
            raise Conflict(f"term {term} is over, this is term {self.term}", code="stale_term")
        self.term = max(self.term, term)

    @property
    def committed_mib(self) -> int:
        """Memory promised to all VMs."""
        return sum(vm.memory_mib for vm in self.vms.values())

    def task(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run it in the worker's own context, whoever asked."""
        return self.process.start(self.loop, work, name=name)

    def serving(self, sandbox_id: SandboxId, epoch: int) -> Vm:
        """Return the VM that serves under exactly that epoch, else raise StaleEpoch."""
        vm = self.vms.get(sandbox_id)
        if vm is None or vm.epoch != epoch:
            raise StaleEpoch(f"sandbox {sandbox_id} is not here under epoch {epoch}")
        return vm

    def require_open(self, vm: Vm) -> None:
        """Raise what work on a VM that does not run is told."""
        if vm.state == STARTING:
            raise NotReady("it is starting")
        if vm.state == DEAD:
            raise Gone("it has died")
        if vm.state != RUNNING:
            raise StaleEpoch("it is being saved or stopped")

    def write(self, sandbox_id: SandboxId, epoch: int) -> int:
        """Let the user write once more; return how often that was by now. StaleEpoch, NotReady."""
        self.require_adopted()
        vm = self.serving(sandbox_id, epoch)
        self.require_open(vm)
        vm.written += 1
        vm.idle_since = self.loop.time()
        return vm.written

    # --- start and stop

    async def start(self, sandbox_id: SandboxId, order: StartVm) -> VmStatus:
        """Return the running VM's status; the same epoch twice is one start."""
        self.require_adopted()
        self.require_term(order.term)
        vm = await self._admit(sandbox_id, order)
        if vm.starting is not None:
            await settled(vm.starting)
            if vm.state == STOPPING:
                raise StaleEpoch("it was stopped while it started")
            if vm.starting is not None:
                vm.starting.result()
        return self.status(vm)

    async def _admit(self, sandbox_id: SandboxId, order: StartVm) -> Vm:
        for _ in range(3):
            if order.epoch <= self.buried.get(sandbox_id, -1):
                raise StaleEpoch(f"sandbox {sandbox_id} was stopped under epoch {self.buried[sandbox_id]}")
            known = self.vms.get(sandbox_id)
            if known is None:
                return self._begin(sandbox_id, order)
            if known.epoch > order.epoch or (known.epoch == order.epoch and known.state == STOPPING):
                raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {known.epoch}")
            if known.epoch == order.epoch:
                if known.arriving and known.state in (ARRIVING, DEAD):
                    raise NotReady("a move to here is still being given up")
                return known
            if order.snapshot is not None and known.state == RUNNING:
                return self._begin_beside(known, order)
            await self.end(known)
        raise Conflict(f"sandbox {sandbox_id} changes owner too often", code="busy")

    def _begin(self, sandbox_id: SandboxId, order: StartVm) -> Vm:
        if self.committed_mib + order.memory_mib > self.total.memory_mib:
            raise NoCapacity(f"short of {order.memory_mib} MiB")
        vm = Vm(sandbox_id, order.epoch, order.memory_mib)
        self.vms[sandbox_id] = vm
        vm.starting = self.task(self._start(vm, order), name=f"start {sandbox_id}")
        return vm

    async def _start(self, vm: Vm, order: StartVm) -> None:
        try:
            await self.load(vm, order)
        except BaseException:
            if vm.state == STARTING and self.is_up:
                self.remove(vm)
            raise
        if vm.state == STARTING:
            self.run(vm)

    def _begin_beside(self, known: Vm, order: StartVm) -> Vm:
        successor = known.successor
        if successor is not None and successor.epoch > order.epoch:
            raise StaleEpoch(f"it is being started under epoch {successor.epoch}")
        if successor is not None and successor.epoch == order.epoch:
            return successor
        if successor is not None:
            raise Conflict("it is being started", code="busy")
        successor = Vm(known.sandbox_id, order.epoch, order.memory_mib)
        known.successor = successor
        successor.starting = self.task(self._succeed(known, successor, order), name="succeed")
        return successor

    async def _succeed(self, known: Vm, successor: Vm, order: StartVm) -> None:
        try:
            await self.load(successor, order)
        finally:
            if self.is_up:
                known.successor = None
        if known.state not in (RUNNING, DEAD):
            raise StaleEpoch("it was stopped while it was restored")
        self._replace(known, successor)

    async def load(self, vm: Vm, order: StartVm) -> None:
        """Take the time that a start takes; the user's writes come with what it starts from."""
        await asyncio.sleep(0.05 + self.dice.random() ** 3)
        if self.is_lame:
            raise HypervisorFailed("nothing starts here")
        if order.snapshot is not None:
            source = order.snapshot.snapshot_id
            artefact = self.saved.get(source)
            if artefact is None:
                artefact = await self.fetch(source)
            vm.written = 0 if order.snapshot.is_fork else artefact.written
        vm.is_loaded = True
        await asyncio.sleep(0.05 * self.dice.random())

    async def stop(self, sandbox_id: SandboxId, order: StopVm) -> VmStopped:
        """Return when the host holds nothing of it; true also for what is not here."""
        self.require_adopted()
        self.require_term(order.term)
        vm = self.vms.get(sandbox_id)
        if vm is None:
            self.bury(sandbox_id, order.epoch)
            return VmStopped(sandbox_id=sandbox_id, existed=False)
        if order.epoch < vm.epoch:
            raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {vm.epoch}, not {order.epoch}")
        if order.idle_since_s is not None and vm.state != STOPPING:
            self.require_idle(vm, order.idle_since_s)
        self.bury(sandbox_id, order.epoch)
        await self.end(vm)
        return VmStopped(sandbox_id=sandbox_id, existed=True)

    def require_idle(self, vm: Vm, idle_s: float) -> None:
        """Raise `busy` if anything happened more recently than that."""
        if vm.state == STARTING or self.loop.time() - vm.idle_since < idle_s:
            raise Conflict(f"sandbox {vm.sandbox_id} is in use", code="busy")

    def bury(self, sandbox_id: SandboxId, epoch: int) -> None:
        """Remember that `epoch` is over."""
        self.buried[sandbox_id] = max(epoch, self.buried.get(sandbox_id, -1))

    async def end(self, vm: Vm, *, is_over: bool = True) -> None:
        """Close the gate and destroy the machine; without `is_over` its epoch may still come."""
        vm.state = STOPPING
        if vm.successor is not None and vm.successor.starting is not None:
            vm.successor.starting.cancel()
            await settled(vm.successor.starting)
        for task in (vm.starting, vm.saving, vm.departure.sending if vm.departure else None):
            if task is not None:
                task.cancel()
                await settled(task)
        await asyncio.sleep(0.02 + 0.3 * self.dice.random() ** 2)
        if self.vms.get(vm.sandbox_id) is vm:
            if is_over:
                self.bury(vm.sandbox_id, vm.epoch)
            self.remove(vm)

    # --- what it says

    def status(self, vm: Vm) -> VmStatus:
        """Return what the control plane is told."""
        return VmStatus(
            sandbox_id=vm.sandbox_id,
            epoch=vm.epoch,
            state=vm.state,
            memory_mib=vm.memory_mib,
            memory_used_mib=vm.memory_mib,
            idle_s=max(0.0, self.loop.time() - vm.idle_since),
            template="base",
            template_version=VERSION,
            reason="it died" if vm.state == DEAD else None,
        )

    async def vm(self, sandbox_id: SandboxId) -> VmStatus:
        """Return one."""
        self.require_adopted()
        if sandbox_id not in self.vms:
            raise NotFound(f"no machine of {sandbox_id}")
        return self.status(self.vms[sandbox_id])

    async def held(self) -> list[VmStatus]:
        """Return all."""
        self.require_adopted()
        return [self.status(vm) for vm in self.vms.values()]

    def beat(self) -> Heartbeat:
        """Return the next heartbeat."""
        self.sequence += 1
        return heartbeat_of(self)

    def learn(self, answer: HeartbeatAnswer) -> None:
        """Take a heartbeat's answer in: VMs that two answers in a row have named, or that are over, end."""
        self.term = max(self.term, answer.term)
        for name, epoch in answer.over.items():
            self.bury(SandboxId(name), epoch)
            vm = self.vms.get(SandboxId(name))
            if vm is not None and vm.epoch <= epoch and vm.state != STOPPING:
                self.watcher.noted(self, f"fences {name}, epoch {vm.epoch}, over is {epoch}")
                self.task(self.end(vm), name=f"fence {name}")
        names = frozenset(answer.quarantined)
        for sandbox_id in sorted(names & self.named_before):
            vm = self.vms.get(SandboxId(sandbox_id))
            if vm is not None and vm.state not in (STARTING, STOPPING, MOVING, ARRIVING):
                self.watcher.noted(self, f"ends {sandbox_id}, which nothing owns")
                self.task(self.end(vm), name=f"quarantine {sandbox_id}")
        self.named_before = names


async def settled(task: asyncio.Task[Any]) -> None:
    """Wait for the end of a task, whatever it is."""
    if not task.done():
        await asyncio.wait({task})
