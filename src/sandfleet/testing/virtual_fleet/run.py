"""One run: a trace on a fleet that the capacity planner keeps, with what is seen of it at each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sandfleet.model.launch import LaunchState
from sandfleet.model.resources import Resources
from sandfleet.planning.capacity import CapacityPlan, plan_capacity
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.capacity_policy import CapacityPolicy
from sandfleet.planning.fleet import CapacityView, Member, Surge
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.rollout import RolloutPlan, step_rollout
from sandfleet.planning.rollout_health import RolloutPolicy, RolloutView, Wellness
from sandfleet.planning.rollout_state import Rollout, begin_rollout
from sandfleet.testing.virtual_fleet.fleet import Behaviour, VirtualFleet
from sandfleet.testing.virtual_fleet.hosts import TEMPLATE, prices
from sandfleet.testing.virtual_fleet.trace import Arrival


@dataclass(frozen=True, slots=True)
class Round:
    """The fleet at one time."""

    at_s: float
    workers: int
    occupied: int
    booting: int
    draining: int
    wanted: int
    sandboxes: int
    queue: int
    capacity_mib: int
    promised_mib: int
    occupied_capacity_mib: int
    unusable_mib: int
    """Free on workers that hold something, in pieces too small for the usual sandbox."""
    price_per_hour: float


@dataclass(frozen=True, slots=True)
class RolloutCourse:
    """A new version that is rolled out while the trace runs."""

    at_s: float
    version: str
    policy: RolloutPolicy = field(default_factory=RolloutPolicy)
    wellness: Callable[[Member], Wellness] = lambda member: Wellness(is_proven=True)
    on_step: Callable[[VirtualFleet, RolloutPlan], None] = lambda fleet, plan: None


@dataclass(slots=True)
class Run:
    """All of it."""

    fleet: VirtualFleet
    rounds: list[Round] = field(default_factory=list)
    memory: CapacityMemory = field(default_factory=CapacityMemory)
    wanted: int = 0
    """How many workers the last round wanted, without a surge."""
    rollout: Rollout | None = None
    sentences: list[tuple[float, str]] = field(default_factory=list)
    """What each round that did something said."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a trace is run."""

    policy: CapacityPolicy
    typical: Resources
    behaviour: Behaviour = field(default_factory=Behaviour)
    workers_first: int = 1
    """How many there are at the beginning."""
    round_s: float = 15.0
    seed: int = 0
    version: str = "1"
    rollout: RolloutCourse | None = None
    on_begin: Callable[[Run], None] = lambda done: None
    on_plan: Callable[[VirtualFleet, CapacityPlan], None] = lambda fleet, plan: None


def run(trace: Sequence[Arrival], course: Course, *, until_s: float) -> Run:
    """Run a trace."""
    fleet = VirtualFleet(course.policy, course.behaviour, seed=course.seed)
    for number in range(course.workers_first):
        fleet.hosts.add(f"wk-first-{number:05}", course.policy.sizes[0], version=course.version, at=fleet.now)
    done = Run(fleet, wanted=course.workers_first)
    course.on_begin(done)
    coming = list(trace)
    next_arrival = 0
    at_s = 0.0
    while at_s <= until_s:
        while next_arrival < len(coming) and coming[next_arrival].at_s <= at_s:
            arrival = coming[next_arrival]
            fleet.run_until(max(fleet.now_s, arrival.at_s))
            fleet.arrive(arrival)
            next_arrival += 1
        fleet.run_until(at_s)
        _round(done, course)
        at_s += course.round_s
    return done


def _round(done: Run, course: Course) -> None:
    fleet = done.fleet
    surge = _rollout_step(done, course)
    view = CapacityView(
        members=fleet.hosts.members(),
        launches=tuple(fleet.launches.values()),
        queue=fleet.queue,
        typical=PlacementRequest(course.typical, TEMPLATE, "local"),
        version=done.rollout.base_version if done.rollout else course.version,
        surge=surge,
    )
    plan = plan_capacity(view, course.policy, done.memory, now=fleet.now)
    course.on_plan(fleet, plan)
    done.memory = plan.memory
    done.wanted = plan.needed.desired - plan.needed.surge
    for command in plan.commands:
        fleet.apply(command)
    if plan.commands:
        done.sentences.append((fleet.now_s, plan.summary()))
    fleet.retry_moves()
    done.rounds.append(_seen(fleet, wanted=plan.needed.desired, typical=course.typical))


def _rollout_step(done: Run, course: Course) -> Surge:
    fleet, asked = done.fleet, course.rollout
    if asked is None or fleet.now_s < asked.at_s:
        return Surge()
    if done.rollout is None:
        begun = begin_rollout(asked.version, course.version, is_boot_tested=True, now=fleet.now)
        assert isinstance(begun, Rollout)
        done.rollout = begun
    members = fleet.hosts.members()
    view = RolloutView(
        members=members,
        wanted=done.wanted,
        launches=tuple(fleet.launches.values()),
        wellness={member.worker.id: asked.wellness(member) for member in members},
    )
    plan = step_rollout(done.rollout, view, asked.policy, now=fleet.now)
    done.rollout = plan.rollout
    fleet.rollout_version = plan.rollout.target
    for command in plan.commands:
        fleet.apply(command)
    asked.on_step(fleet, plan)
    if plan.commands:
        done.sentences.append((fleet.now_s, plan.said))
    return plan.surge


def _seen(fleet: VirtualFleet, *, wanted: int, typical: Resources) -> Round:
    workers = [member.worker for member in fleet.hosts.members()]
    occupied = [worker for worker in workers if worker.committed.memory_mib > 0]
    free = [worker.total.memory_mib - worker.committed.memory_mib for worker in occupied]
    return Round(
        at_s=fleet.now_s,
        workers=len(workers),
        occupied=len(occupied),
        booting=sum(one.state is LaunchState.PENDING for one in fleet.launches.values()),
        draining=sum(worker.draining for worker in workers),
        wanted=wanted,
        sandboxes=fleet.sandboxes,
        queue=len(fleet.queue),
        capacity_mib=sum(worker.total.memory_mib for worker in workers),
        promised_mib=sum(worker.committed.memory_mib for worker in workers),
        occupied_capacity_mib=sum(worker.total.memory_mib for worker in occupied),
        unusable_mib=sum(one % typical.memory_mib for one in free),
        price_per_hour=prices(fleet.hosts.by_id.values()),
    )
