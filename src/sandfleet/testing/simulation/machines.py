"""A machine pool on virtual time: machines boot into hosts of the world, and end with what they hold.

What must hold is looked at here: a launch has one machine, and none ends under a sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from sandfleet.model.errors import MachineRefused, PoolUnreachable, StaleTerm
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchFailure, LaunchId, LaunchState, MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachinePart, MachineState
from sandfleet.model.resources import Resources
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.rollout import RolloutPolicy
from sandfleet.testing.simulation.loop import Process
from sandfleet.testing.simulation.network import Weather
from sandfleet.testing.simulation.rollouts import FIRST, boots

if TYPE_CHECKING:
    from sandfleet.testing.simulation.profile import Profile
    from sandfleet.testing.simulation.world import World

POOL, SIZE = "simulated", "small"
ENDS_WITHIN_S = 3.0
PATIENCE_S = 3.0
T = TypeVar("T")


def size_of(profile: Profile) -> MachineSize:
    """Return the one size that there is: that of the hosts which the world begins with."""
    resources = Resources(profile.host_memory_mib, 64, 10**9)
    return MachineSize(POOL, SIZE, resources, boot_s=4.0)


def policy_of(profile: Profile) -> CapacityPolicy:
    """Return a policy in whose times a run of a few minutes sees machines come and go."""
    return CapacityPolicy(
        sizes=(size_of(profile),),
        workers_min=1,
        workers_max=profile.hosts + 2,
        idle_reserve=profile.idle_reserve,
        launch_pause_s=1.0,
        drain_pause_s=2.0,
        calm_s=6.0,
        trend_s=6.0,
        age_s_min=4.0,
        launch_s_max=20.0,
        worth_min=0.0,
        returned_pause_s=10.0,
    )


ROLLOUT_POLICY = RolloutPolicy(canary_s=15.0, canary_s_max=90.0, heard_s=8.0)


@dataclass(slots=True)
class SimulatedMachine:
    """One machine, from its order on; it stays known when it has ended."""

    order: MachineOrder
    at: datetime
    worker_id: WorkerId
    is_up: bool = False
    is_ending: bool = False
    is_gone: bool = False
    ends_at: datetime | None = None
    """When the pool takes it away, if it has said so."""

    def seen(self) -> Machine:
        """Return it as the port tells of it."""
        state = MachineState.RUNNING if self.is_up else MachineState.STARTING
        return Machine(
            id=self.order.launch_id,
            launch_id=self.order.launch_id,
            size=SIZE,
            state=MachineState.ENDING if self.is_ending else state,
            launched_at=self.at,
            ends_at=self.ends_at,
        )


@dataclass
class MachineAccount:
    """All machines of the world that were launched."""

    world: World
    weather: Weather
    machines: dict[LaunchId, SimulatedMachine] = field(default_factory=dict)
    term: int = 0

    def begin_with(self, count: int) -> None:
        """Have so many machines whose workers have joined before the story begins."""
        for number in range(count):
            launch_id = LaunchId(f"first-{number}")
            machine = SimulatedMachine(
                MachineOrder(launch_id, SIZE, FIRST), self.world.now(), _worker(launch_id)
            )
            self.machines[launch_id] = machine
            self.world.database.launches[launch_id] = Launch(
                launch_id,
                size_of(self.world.profile).key,
                FIRST,
                machine.at,
                state=LaunchState.JOINED,
                ended_at=machine.at,
                machine_id=launch_id,
                worker_id=machine.worker_id,
            )
            self._boot(machine)

    def launch(self, order: MachineOrder, term: int) -> Machine:
        """Begin it, or return the one that there is."""
        self._require(term)
        known = self.machines.get(order.launch_id)
        if known is not None and known.is_gone:
            raise MachineRefused("that machine has ended already", failure=LaunchFailure.BROKEN)
        if known is None:
            dice = self.world.dice(f"machine {order.launch_id}")
            if dice.random() < 0.1 and not self.world.network.is_calm:
                raise MachineRefused("none is left", failure=LaunchFailure.STOCKOUT)
            known = SimulatedMachine(order, self.world.now(), _worker(order.launch_id))
            self.machines[order.launch_id] = known
            self.world.trace.add(POOL, f"{order.launch_id} boots")
            self.world.later(1.0 + 6.0 * dice.random(), self._boot, known)
        return known.seen()

    def list(self) -> Sequence[Machine]:
        """Return those that are not gone."""
        return [one.seen() for _, one in sorted(self.machines.items()) if not one.is_gone]

    def terminate(self, machine_id: str, term: int) -> bool:
        """Have it end; nothing that anybody owns may be there."""
        self._require(term)
        known = self.machines.get(LaunchId(machine_id))
        if known is None or known.is_gone:
            return True
        if not known.is_ending:
            self._look_at_end(known)
            known.is_ending = True
            self.world.trace.add(POOL, f"{machine_id} is to end")
            dice = self.world.dice(f"end of {machine_id}")
            self.world.later(ENDS_WITHIN_S * dice.random(), self._end, known)
        return False

    def unsettled(self) -> Sequence[str]:
        """Return what is on its way, but for launches that are looked for by their tags for minutes."""
        launches = self.world.database.launches.values()
        return [f"{one.id} is pending" for one in launches if one.state.value == "pending"] + [
            f"{one.id} ends" for one in launches if one.is_ending and one.machine_id is not None
        ]

    def _require(self, term: int) -> None:
        if term < self.term:
            raise StaleTerm(f"term {term} is over")
        self.term = term

    def _boot(self, machine: SimulatedMachine) -> None:
        if not machine.is_ending:
            machine.is_up = True
            version = machine.order.version or FIRST
            if boots(self.world, version):
                self.world.add_host(machine.worker_id, machine_id=machine.order.launch_id, version=version)

    def take_away(self, machine: SimulatedMachine) -> None:
        """End it because its time is over; by then nothing that anybody owns may be there."""
        if machine.ends_at is not None and not machine.is_gone:
            self.world.trace.add(POOL, f"{machine.order.launch_id} is taken away")
            self._end(machine)

    def _end(self, machine: SimulatedMachine) -> None:
        machine.is_gone = True
        host = self.world.hosts.get(machine.worker_id)
        self.world.trace.add(POOL, f"{machine.order.launch_id} is gone")
        if host is not None:
            self._look_at_end(machine)
            host.burn()

    def _look_at_end(self, machine: SimulatedMachine) -> None:
        database, host = self.world.database, self.world.hosts.get(machine.worker_id)
        promised = [
            name
            for places in (database.reservations, database.second_places)
            for name, held in places.items()
            if held.worker_id == machine.worker_id
        ]
        owned = [
            vm.sandbox_id
            for vm in (host.vms.values() if host is not None else ())
            if (row := database.sandboxes.get(vm.sandbox_id)) is not None
            and not row.is_terminal
            and row.worker_id == machine.worker_id
            and row.epoch == vm.epoch
        ]
        self.world.findings.require(
            not promised and not owned,
            f"{machine.order.launch_id} ends under {sorted({*promised, *owned})}",
        )


def _worker(launch_id: LaunchId) -> WorkerId:
    return WorkerId(f"wk-{launch_id}")


class SimulatedMachinePool:
    """The pool as one replica reaches it."""

    name = POOL

    def __init__(self, account: MachineAccount, process: Process) -> None:
        self.sizes = (size_of(account.world.profile),)
        self._account = account
        self._process = process

    async def launch(self, order: MachineOrder, *, term: int) -> Machine:
        """Begin a machine."""
        return await self._asked(lambda: self._account.launch(order, term))

    async def list(self) -> Sequence[Machine]:
        """Return those that are not gone."""
        return await self._asked(self._account.list)

    async def terminate(self, machine_id: str, *, term: int) -> bool:
        """Have it end."""
        return await self._asked(lambda: self._account.terminate(machine_id, term))

    async def parts(self) -> Sequence[MachinePart]:
        """Return none: a machine here is one piece."""
        return []

    async def remove(self, part: MachinePart, *, term: int) -> bool:
        """Say that there is no such part."""
        return True

    async def _asked(self, work: Callable[[], T]) -> T:
        network, weather = self._account.world.network, self._account.weather
        try:
            answer: T = await network.post(self._process, weather, work, patience_s=PATIENCE_S)
            return answer
        except (OSError, TimeoutError) as error:
            raise PoolUnreachable("the pool does not answer") from error
