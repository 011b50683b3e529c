"""Which sandboxes live on this host, and who may touch them now.

Rule 1: a resident is served under exactly one epoch; every other one is `moved`.
Rule 2: the gate. Work enters by `activity()` while the state is `running`. Leaving
`running` and shutting out (and ending) all work is one step without a wait in it,
so nothing slips in between the look at the counter and the closing. While a sandbox is
switched from one worker to another, work waits at the gate until that is decided.
Rule 3: an epoch that was stopped here is never started again (`bury`), so a start
that was under way in the network cannot bring a killed sandbox back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

from sandfleet.model.errors import Conflict, Gone, GuestUnresponsive, NotReady, SandfleetError, StaleEpoch
from sandfleet.ports.clock import Clock
from sandfleet.ports.hypervisor import Machine, MachineOrder
from sandfleet.wire.worker_messages import VmStatus
from sandfleet.worker.background import OwnedTask
from sandfleet.worker.budget import Budget
from sandfleet.worker.executions import SANDBOX_BYTES_MAX, Executions
from sandfleet.worker.measured import Measured
from sandfleet.worker.moves import Arrival, Departure
from sandfleet.worker.session_clients import SessionClients
from sandfleet.worker.size_orders import SizeOrders

_BURIED_MAX = 20_000
_REFUSED_SAVES_MAX = 100
HELD_S_MAX = 60.0
"""How long work waits at the gate of a sandbox that is being switched."""


class VmState(StrEnum):
    """How a VM stands, as the heartbeat says it."""

    STARTING = "starting"
    RUNNING = "running"
    SAVING = "saving"
    MOVING = "moving"
    """It stands still, and whether it goes on here or elsewhere is not decided."""
    ARRIVING = "arriving"
    """Another worker sends it here; the sandbox is still that one's."""
    STOPPING = "stopping"
    DEAD = "dead"


class Resident:
    """One sandbox on this host."""

    def __init__(
        self, sandbox_id: str, *, epoch: int, order: MachineOrder, clock: Clock, outputs: Budget
    ) -> None:
        self.sandbox_id = sandbox_id
        self.epoch = epoch
        self.order = order
        self.state = VmState.STARTING
        self.reason: str | None = None
        self.in_flight = 0
        self.measured = Measured()
        self.is_identity_certain = False
        """Whether this process saw the guest take its identity (see `operations.start`)."""
        self.starting: OwnedTask[Any] | None = None
        self.stopping: OwnedTask[Any] | None = None
        self.saving: OwnedTask[Any] | None = None
        self.saving_to: str | None = None
        """The snapshot that a hibernation under way makes."""
        self.refused_saves: OrderedDict[str, SandfleetError] = OrderedDict()
        """Snapshots whose making was refused, and why."""
        self.successor: Resident | None = None
        """What is being loaded beside this VM, to take its place when it answers."""
        self.departure: Departure | None = None
        """The newest move away from here."""
        self.arrival: Arrival | None = None
        """The move by which it comes, or came, here."""
        self.resizing = asyncio.Lock()
        self.sizes = SizeOrders()
        self.restarted = ""
        """Names the last restart, so that its repetition is none."""
        self.sessions = SessionClients()
        self.running_execs = 0
        """Commands, sessions and terminals that ran in it when they were last counted."""
        self.uses = 0
        """How often something was begun here that may have started one."""
        self.counted_uses: int | None = None
        """How many of these the count knows; None when it is unknown what runs."""
        self.executions = Executions(Budget(SANDBOX_BYTES_MAX, parent=outputs))
        self._machine: Machine | None = None
        self._clock = clock
        self._idle_since = clock.monotonic()
        self._scopes: set[asyncio.Timeout] = set()
        self._decided = _set()
        """Set unless it is open whether the sandbox goes on here."""

    @property
    def machine(self) -> Machine | None:
        """The machine, once there is one."""
        return self._machine

    @property
    def idle_s(self) -> float:
        """Seconds since the last activity ended; 0 while one is in flight."""
        return 0.0 if self.in_flight else max(0.0, self._clock.monotonic() - self._idle_since)

    def open(self, machine: Machine) -> None:
        """Begin to serve, unless the gate was closed meanwhile: then the stop finds the machine here."""
        self._machine = machine
        if self.state in (VmState.STARTING, VmState.ARRIVING):
            self.state = VmState.RUNNING
        self._decided.set()
        self._idle_since = self._clock.monotonic()

    def take(self, machine: Machine) -> None:
        """Hold the machine of a sandbox that is not served yet."""
        self._machine = machine

    def keep_dead(self, machine: Machine, reason: str) -> None:
        """Hold what is left of a dead VM until the control plane has it removed."""
        self._machine = machine
        self.die(reason)

    def die(self, reason: str) -> None:
        """Note that the VM ended by itself, and end all work on it."""
        if self.state is VmState.STOPPING:
            return
        self.state = VmState.DEAD
        self.reason = reason
        self._end_work()
        self._decided.set()

    def refuse_save(self, snapshot_id: str, reason: SandfleetError) -> None:
        """Note that this snapshot was refused: it is not made any more."""
        self.refused_saves[snapshot_id] = reason
        if len(self.refused_saves) > _REFUSED_SAVES_MAX:
            self.refused_saves.popitem(last=False)

    def close(self) -> None:
        """Close the gate for good and end all work, in one step."""
        self.state = VmState.STOPPING
        self._end_work()
        self._decided.set()

    def close_if_idle(self, idle_s_min: float) -> None:
        """Close the gate, or raise `busy` if anything is in flight or was, more recently than that."""
        if self.state is VmState.STARTING or (self.state is VmState.RUNNING and self.idle_s < idle_s_min):
            raise Conflict(f"sandbox {self.sandbox_id} is in use", code="busy")
        if self.in_flight and self.state is VmState.RUNNING:
            raise Conflict(f"sandbox {self.sandbox_id} is in use", code="busy")
        self.close()

    def close_to_save(self, idle_s_min: float | None) -> None:
        """Shut out and end all work, in one step, until `reopen` or the end; `busy` as `close_if_idle`."""
        if self.state is not VmState.RUNNING:
            raise Conflict(f"sandbox {self.sandbox_id} is {self.state.value}", code="busy")
        self.refuse_while_leaving()
        if idle_s_min is not None and (self.in_flight or self.idle_s < idle_s_min):
            raise Conflict(f"sandbox {self.sandbox_id} is in use", code="busy")
        self.state = VmState.SAVING
        self._end_work()

    def begin_restart(self) -> None:
        """Shut out and end all work, in one step, until `open`; a dead VM may be started anew as well."""
        if self.state not in (VmState.RUNNING, VmState.DEAD):
            raise Conflict(f"sandbox {self.sandbox_id} is {self.state.value}", code="busy")
        self.refuse_while_leaving()
        self.state = VmState.STARTING
        self.reason = None
        self._end_work()

    def refuse_while_leaving(self) -> None:
        """Raise `busy` while a move away from here is under way."""
        if self.departure is not None and self.departure.is_open:
            raise Conflict(f"sandbox {self.sandbox_id} is moving to another worker", code="busy")

    def expect(self) -> None:
        """Be a sandbox that comes here: whoever asks for it under its new epoch waits."""
        self.state = VmState.ARRIVING
        self._decided.clear()

    def hold(self) -> None:
        """End all work and let whoever comes wait, in one step, until it is decided where it goes on."""
        if self.state is not VmState.RUNNING:
            raise Conflict(f"sandbox {self.sandbox_id} is {self.state.value}", code="busy")
        self.keep_still()

    def keep_still(self, machine: Machine | None = None) -> None:
        """Be a sandbox whose move an earlier process has left undecided."""
        self._machine = machine or self._machine
        self.state = VmState.MOVING
        self._decided.clear()
        self._end_work()

    def reopen(self) -> None:
        """Serve again after a save or a move that failed, unless the VM was stopped or died meanwhile."""
        if self.state in (VmState.SAVING, VmState.MOVING):
            self.state = VmState.RUNNING
            self._decided.set()
            self._idle_since = self._clock.monotonic()

    @asynccontextmanager
    async def activity(self) -> AsyncIterator[Machine]:
        """Hold the gate open for one piece of work; raises what `ended` says when the VM ends under it."""
        self.in_flight += 1
        self.uses += 1
        try:
            async with self.attachment() as machine:
                yield machine
        finally:
            self.in_flight -= 1
            self.touch()

    @asynccontextmanager
    async def attachment(self) -> AsyncIterator[Machine]:
        """Be there without holding the gate, as an open and silent socket is; it ends with the VM as well."""
        await self._wait_decided()
        machine = self._require_open()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                yield machine
        except TimeoutError:
            if scope.expired():
                raise self.ended() from None
            raise
        except GuestUnresponsive:
            if self.state is not VmState.RUNNING:
                raise self.ended() from None
            if not await machine.is_alive():
                raise Gone(f"sandbox {self.sandbox_id} is gone: its VM has died") from None
            raise
        finally:
            self._scopes.discard(scope)

    def touch(self) -> None:
        """Let the idle time begin anew."""
        self._idle_since = self._clock.monotonic()

    def glance(self) -> Machine:
        """Return the machine for a look that neither holds the gate nor counts as activity."""
        return self._require_open()

    def ended(self) -> SandfleetError:
        """Return the error for work that met the end of the VM."""
        if self.state is VmState.DEAD:
            return Gone(f"sandbox {self.sandbox_id} is gone: {self.reason}")
        if self.state is VmState.SAVING:  # it goes on later, perhaps elsewhere: the route is asked again
            return StaleEpoch(f"sandbox {self.sandbox_id} is being saved")
        if self.state is VmState.MOVING:
            return StaleEpoch(f"sandbox {self.sandbox_id} is moving to another worker")
        return Gone(f"sandbox {self.sandbox_id} has been stopped")

    def status(self) -> VmStatus:
        """Return what the control plane is told."""
        version = self._machine.facts.template_version if self._machine else ""
        return VmStatus(
            sandbox_id=self.sandbox_id,
            epoch=self.epoch,
            state=self.state.value,
            memory_mib=self.order.memory_mib,
            cpu_count=self.order.cpu_count,
            disk_mib=self.order.disk_mib,
            memory_used_mib=self.measured.memory_mib,
            cpu_used=self.measured.cpu_used,
            disk_used_mib=self.measured.disk_mib,
            in_flight=self.in_flight,
            idle_s=self.idle_s,
            template=self.order.template,
            template_version=version,
            reason=self.reason,
        )

    async def _wait_decided(self) -> None:
        """Wait while it is open where the sandbox goes on; asking again is then the caller's part."""
        if self._decided.is_set():
            return
        try:
            async with asyncio.timeout(HELD_S_MAX):
                await self._decided.wait()
        except TimeoutError:
            raise NotReady(f"sandbox {self.sandbox_id} is being moved") from None

    def _require_open(self) -> Machine:
        if self.state is VmState.RUNNING and self._machine is not None:
            return self._machine
        if self.state in (VmState.STARTING, VmState.ARRIVING):
            raise NotReady(f"sandbox {self.sandbox_id} is starting")
        if self.state in (VmState.DEAD, VmState.SAVING, VmState.MOVING):
            raise self.ended()
        raise StaleEpoch(f"sandbox {self.sandbox_id} is leaving this worker")

    def _end_work(self) -> None:
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now)


class Residents:
    """All residents of the host."""

    def __init__(self) -> None:
        self._by_id: dict[str, Resident] = {}
        self._buried: OrderedDict[str, int] = OrderedDict()

    def __iter__(self) -> Iterator[Resident]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def committed_mib(self) -> int:
        """Memory promised to all residents, those that start and those that start beside one included."""
        successors = (resident.successor for resident in self._by_id.values())
        return sum(one.order.memory_mib for one in (*self._by_id.values(), *successors) if one is not None)

    @property
    def starting(self) -> int:
        """How many are being started."""
        return sum(resident.state is VmState.STARTING for resident in self._by_id.values())

    def find(self, sandbox_id: str) -> Resident | None:
        """Return the resident, in whatever state."""
        return self._by_id.get(sandbox_id)

    def serving(self, sandbox_id: str, *, epoch: int) -> Resident:
        """Return the resident that serves under exactly `epoch`, else raise StaleEpoch.

        What is not here at all is `moved` too: on the data plane "not found" is what
        a guest says of a file, and must not be taken for it.
        """
        resident = self._by_id.get(sandbox_id)
        if resident is None:
            raise StaleEpoch(f"sandbox {sandbox_id} is not on this worker")
        if resident.epoch != epoch:
            raise StaleEpoch(f"sandbox {sandbox_id} is here under epoch {resident.epoch}, not {epoch}")
        return resident

    def refuse_buried(self, sandbox_id: str, *, epoch: int) -> None:
        """Raise StaleEpoch if this epoch, or a later one, has been stopped here."""
        if epoch <= self._buried.get(sandbox_id, -1):
            raise StaleEpoch(f"sandbox {sandbox_id} was stopped under epoch {self._buried[sandbox_id]}")

    def bury(self, sandbox_id: str, *, epoch: int) -> None:
        """Remember that `epoch` is over. Bounded: repair by quarantine covers what falls out."""
        self._buried[sandbox_id] = max(epoch, self._buried.pop(sandbox_id, -1))
        while len(self._buried) > _BURIED_MAX:
            self._buried.popitem(last=False)

    def add(self, resident: Resident) -> None:
        """Take a resident in; its memory counts as committed from here on."""
        if resident.sandbox_id in self._by_id:
            raise ValueError(f"{resident.sandbox_id} is already here")
        self._by_id[resident.sandbox_id] = resident

    def remove(self, resident: Resident) -> None:
        """Forget it, if it is still the one that is known."""
        if self._by_id.get(resident.sandbox_id) is resident:
            del self._by_id[resident.sandbox_id]
            resident.executions.forget_all()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
