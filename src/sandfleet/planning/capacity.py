"""How many workers the fleet shall have: one sum, and the commands that bring the fleet there.

Rule 1: the number is computed once, from everything that asks for workers (`DesiredSum`).
Rule 2: nothing that may have a sandbox is ended: a machine goes when its worker is draining,
nothing of it is promised and the worker itself has said that it is empty.
Rule 3: doing without a drain that was begun comes before a launch, a launch before waiting.
Rule 4: the fleet grows for what waits and is foreseen; it shrinks only so far that the peak of
the last while would still fit. The distance between the two is what keeps it still.
Rule 5: when many workers are unhealthy nothing is taken away: the fault may be in what we see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sandfleet.model.drain import DrainOwner
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import WorkerId
from sandfleet.model.launch import Launch, LaunchId, LaunchState, MachineSize
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.capacity_figures import with_figures
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.capacity_policy import CapacityPolicy, DesiredSum
from sandfleet.planning.consolidation import Ground, Shrinking, lightest_first, shrink
from sandfleet.planning.fleet import (
    AbandonLaunch,
    CapacityView,
    FleetCommand,
    KeepWorker,
    LaunchMachine,
    Member,
    RemoveWorker,
    Resident,
    frozen_because,
)
from sandfleet.planning.packing import Packing
from sandfleet.planning.placement import PlacementRequest
from sandfleet.planning.sizes_to_launch import SizeChooser, empty_worker

SETTLING = "the leader is new: workers may be about to report"
FORESEEN_MAX = 5000
"""With how many sandboxes of the typical size foreseen demand is counted at most."""


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """What to do now, each command with its reason; and why nothing else is done."""

    needed: DesiredSum
    current: int
    commands: Sequence[FleetCommand]
    memory: CapacityMemory
    """What the next round must know: written down in the transaction that records the commands."""
    held: str = ""
    """Why the fleet as a whole does not change further."""
    refused_workers: Mapping[WorkerId, str] = field(default_factory=dict)
    refused_sizes: Mapping[str, str] = field(default_factory=dict)
    unplaced: int = 0
    """Waiting creates that no worker and no new machine could hold now."""
    news: Sequence[FleetNews] = ()
    """What is new since the round before, beside the commands."""

    def summary(self) -> str:
        """Return the round in one sentence."""
        counts = Counter(type(command).__name__ for command in self.commands)
        done = ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "hold"
        held = f"; {self.held}" if self.held else ""
        return f"{done}: {self.current} workers, {self.needed.desired} wanted ({self.needed}){held}"


def plan_capacity(
    view: CapacityView, policy: CapacityPolicy, memory: CapacityMemory, *, now: datetime
) -> CapacityPlan:
    """Decide one round."""
    before = memory
    memory = memory.with_launches(view.launches)
    demand_mib = _demand_mib(view)
    memory = replace(memory, demand=memory.demand.with_sample(demand_mib, now=now))
    round_ = _Round(view, policy, memory, now)
    round_.call_off()
    round_.pack(demand_mib)
    if round_.is_short:
        round_.grow()
    else:
        round_.shrink(demand_mib)
    round_.remove()
    return with_figures(round_.plan(), view, policy, before=before)


def _demand_mib(view: CapacityView) -> int:
    promised = sum(member.worker.committed.memory_mib for member in view.members)
    return promised + sum(request.resources.memory_mib for request in view.queue)


class _Round:
    """The fleet as it is, and as it becomes with what is decided."""

    def __init__(
        self, view: CapacityView, policy: CapacityPolicy, memory: CapacityMemory, now: datetime
    ) -> None:
        self._view, self._policy, self._memory, self._now = view, policy, memory, now
        self._frozen = frozen_because(view.members)
        self._commands: list[FleetCommand] = []
        self._held = self._frozen or ""
        self._refused_workers: Mapping[WorkerId, str] = {}
        self._kept: set[WorkerId] = set()
        self._members = [one for one in view.members if one.worker.state is not WorkerState.GONE]
        self._pending = self._pending_launches()
        self._templates = _wanted_templates(view)
        self._chooser = self._size_chooser()
        self._packing = self._empty_packing()
        self.opened: list[MachineSize] = []
        """Machines without which something finds no place."""
        self._opened_for_queue = 0
        self._unplaced = 0
        self.needed = self._sum()
        self.current = self._count()

    def call_off(self) -> None:
        """Keep the workers that did not get empty by their deadline: they are needed, after all."""
        for member in self._members:
            if member.drained_by is DrainOwner.CAPACITY and member.is_stuck:
                reason = "it did not get empty by its deadline"
                self._commands.append(KeepWorker(member.worker.id, DrainOwner.CAPACITY, reason))
                self._kept.add(member.worker.id)
        if self._kept:
            self._memory = self._memory.with_returned(self._kept, now=self._now)

    def pack(self, demand_mib: int) -> None:
        """Place what waits, what has to leave, and what is foreseen."""
        queue = self._open_for(self._packing.place_all(self._view.queue))
        self._unplaced = len(queue)
        self._opened_for_queue = len(self.opened)
        self._open_for(self._packing.place_all(self._movers()))
        self._open_for(self._packing.place_all(self._foreseen(self._growth_mib())))
        self.needed = self._sum()

    @property
    def is_short(self) -> bool:
        """Whether more workers are wanted, or others."""
        return bool(self.opened) or self.needed.desired > self.current or self._surge_missing() > 0

    def grow(self) -> None:
        """Call drains off, else launch."""
        wanted = max(self.needed.desired - self.current, len(self.opened))
        returning = self._returning()[: max(0, wanted)]
        for member in returning:
            reason = f"it is needed: {self.needed.desired} workers wanted"
            self._commands.append(KeepWorker(member.worker.id, DrainOwner.CAPACITY, reason))
            self._kept.add(member.worker.id)
        if returning:
            self._memory = self._memory.with_returned(self._kept, now=self._now)
            return
        self._launch(self._within_budget(max(wanted, self._surge_missing())))

    def shrink(self, demand_mib: int) -> None:
        """Drain whom the fleet can do without."""
        self._held = self._held or self._why_not_smaller() or ""
        if self._held:
            return
        peak_mib = self._memory.demand.peak_mib(within_s=self._policy.calm_s, now=self._now)
        missing_mib = peak_mib - demand_mib - self._growth_mib()
        if self._packing.place_all(self._foreseen(missing_mib)):
            self._held = f"the peak of the last {self._policy.calm_s:.0f} s would not fit"
            return
        found = self._shrinking()
        self._refused_workers = found.refused
        self._commands += found.drains
        if found.drains:
            self._memory = replace(self._memory, drained_at=self._now)

    def remove(self) -> None:
        """End the machines that we emptied; give up launches that never joined."""
        if self._frozen:
            return
        for member in self._members:
            is_ours = member.drained_by is DrainOwner.CAPACITY and member.worker.id not in self._kept
            if is_ours and member.may_be_removed:
                self._commands.append(RemoveWorker(member.worker.id, "it is drained and empty"))
        for launch in self._pending:
            age_s = (self._now - launch.requested_at).total_seconds()
            if age_s > self._policy.launch_s_max:
                reason = f"it has not joined within {self._policy.launch_s_max:.0f} s"
                self._commands.append(AbandonLaunch(launch.id, reason))

    def plan(self) -> CapacityPlan:
        """Return what was decided."""
        return CapacityPlan(
            needed=self.needed,
            current=self.current,
            commands=tuple(self._commands),
            memory=self._memory,
            held=self._held,
            refused_workers=self._refused_workers,
            refused_sizes=dict(self._chooser.refused),
            unplaced=self._unplaced,
        )

    def _pending_launches(self) -> Sequence[Launch]:
        pending = (one for one in self._view.launches if one.state is LaunchState.PENDING)
        return sorted(pending, key=lambda one: one.id)

    def _size_chooser(self) -> SizeChooser:
        machines: Counter[str] = Counter()
        for size in [*(one.size for one in self._members), *(one.size for one in self._pending)]:
            machines.update([size, size.partition("/")[0]])
        policy = self._policy
        return SizeChooser(
            policy.sizes, policy.machines_max, policy.placement, self._memory.backoffs, self._now, machines
        )

    def _empty_packing(self) -> Packing:
        packing = Packing((one.worker for one in self._members if one.takes_more), self._policy.placement)
        sizes = {size.key: size for size in self._policy.sizes}
        for launch in self._pending:
            if launch.size in sizes:
                packing.add(self._empty(launch.id, sizes[launch.size], version=launch.version))
        return packing

    def _empty(self, name: str, size: MachineSize, *, version: str) -> Worker:
        return empty_worker(name, size, version=version, templates=self._templates)

    def _count(self) -> int:
        """Workers that are there or on their way, and not on their way out."""
        staying = [one for one in self._members if not one.is_draining and not _is_away(one)]
        return len(staying) + len(self._pending)

    def _sum(self) -> DesiredSum:
        staying = [one for one in self._members if not one.is_draining and not _is_away(one)]
        return DesiredSum(
            occupied=len(self._packing.occupied),
            standing=sum(not one.takes_more and not self._is_on_trial(one) for one in staying),
            idle_reserve=self._policy.idle_reserve,
            surge=self._view.surge.workers,
            workers_min=self._policy.workers_min,
            workers_max=self._policy.workers_max,
        )

    def _is_on_trial(self, member: Member) -> bool:
        """Whether it is the surge itself: of a version that has to prove itself before it takes anything."""
        surge, worker = self._view.surge, member.worker
        return surge.workers > 0 and worker.cordoned and worker.worker_version == surge.version

    def _movers(self) -> Sequence[PlacementRequest]:
        """What still has to leave the workers that are draining; a roll-out's go to its version alone."""
        movers: list[Resident] = []
        for member in self._members:
            if member.drained_by is DrainOwner.ROLLOUT and self._view.surge.version:
                version = self._view.surge.version
                movers += [
                    replace(one, request=replace(one.request, worker_version=version))
                    for one in member.residents
                ]
            elif member.is_draining:
                movers += member.residents
        return [one.request for one in lightest_first(movers)]

    def _growth_mib(self) -> int:
        if not self._policy.sizes:
            return 0
        boot_s = self._memory.boot_s(self._policy.sizes[0])
        return self._memory.demand.growth_mib(horizon_s=boot_s, trend_s=self._policy.trend_s, now=self._now)

    def _foreseen(self, memory_mib: int) -> Sequence[PlacementRequest]:
        typical = self._view.typical
        if typical is None or memory_mib <= 0:
            return []
        count = -(-memory_mib // max(1, typical.resources.memory_mib))
        return [typical] * min(count, FORESEEN_MAX)

    def _open_for(self, unplaced: Sequence[PlacementRequest]) -> Sequence[PlacementRequest]:
        """Add a machine for each that still finds no place; return those that no machine may hold."""
        left: list[PlacementRequest] = []
        for request in unplaced:
            if self._packing.place(request) is not None:
                continue
            size = self._chooser.choose(request)
            if size is None:
                left.append(request)
                continue
            worker = self._empty(f"new-{len(self.opened)}", size, version=request.worker_version or "")
            self._packing.add(replace(worker, templates={**worker.templates, request.template: ""}))
            self.opened.append(size)
            self._packing.place(request)
        return left

    def _returning(self) -> Sequence[Member]:
        """Workers whose drain may be called off, the fullest first."""
        ours = [
            one
            for one in self._members
            if one.drained_by is DrainOwner.CAPACITY
            and one.worker.state is WorkerState.READY
            and one.worker.id not in self._kept
        ]
        return sorted(ours, key=lambda one: (-one.worker.committed.memory_mib, one.worker.id))

    def _within_budget(self, wanted: int) -> int:
        policy = self._policy
        if self._frozen and wanted > self._opened_for_queue:
            wanted = self._opened_for_queue
        if self._view.is_settling and wanted > self._opened_for_queue:
            self._hold(SETTLING)
            wanted = self._opened_for_queue
        last = self._memory.launched_at
        is_pause = last is not None and (self._now - last).total_seconds() < policy.launch_pause_s
        if is_pause and not self._opened_for_queue:
            self._hold("launched a moment ago")
            return 0
        machines = len(self._members) + len(self._pending)
        room = policy.workers_max + self._view.surge.above_max - machines
        at_once = policy.launches_at_once - len(self._pending)
        if wanted > room:
            self._hold(f"{machines} machines, {policy.workers_max} at most")
        elif wanted > at_once:
            self._hold(f"{len(self._pending)} launches under way, {policy.launches_at_once} at once")
        return max(0, min(wanted, room, at_once))

    def _launch(self, count: int) -> None:
        surging = self._surge_missing()
        for number in range(count):
            size = self.opened[number] if number < len(self.opened) else self._chooser.choose(None)
            if size is None:
                self._hold("no size of machine may be had now")
                break
            self._memory = replace(self._memory, launches=self._memory.launches + 1, launched_at=self._now)
            launch_id = LaunchId(f"launch-{self._memory.launches:08}")
            is_surge = number < surging
            version = self._view.surge.version if is_surge else self._view.version
            self._commands.append(LaunchMachine(launch_id, size.key, version, self._why_launched(is_surge)))

    def _why_launched(self, is_surge: bool) -> str:
        why = "for the roll-out" if is_surge else "demand"
        return f"{why}: {self.current} workers, {self.needed.desired} wanted ({self.needed})"

    def _surge_missing(self) -> int:
        surge = self._view.surge
        versions = [one.version for one in self._pending]
        versions += [one.worker.worker_version for one in self._members if not one.is_draining]
        return max(0, surge.workers - versions.count(surge.version))

    def _hold(self, reason: str) -> None:
        self._held = f"{self._held}; {reason}" if self._held else reason

    def _why_not_smaller(self) -> str | None:
        if self._view.is_settling:
            return SETTLING
        if self._view.surge.is_under_way:
            return "a roll-out is under way"
        if self._view.queue:
            return "creates wait"
        if self._pending:
            return f"{len(self._pending)} machines still boot"
        typical = self._view.typical
        if typical is not None and self._growth_mib() >= typical.resources.memory_mib:
            return "demand grows"
        last = max((at for at in (self._memory.launched_at, self._memory.drained_at) if at), default=None)
        if last is not None and (self._now - last).total_seconds() < self._policy.drain_pause_s:
            return "changed a short while ago"
        return None

    def _shrinking(self) -> Shrinking:
        draining = sum(one.is_draining for one in self._members)
        ground = Ground(
            packing=self._packing,
            needed=self.needed,
            current=self.current,
            returned_at=self._memory.returned_at,
            drains_max=self._policy.drains_at_once - draining,
        )
        return shrink(self._members, ground, self._policy, now=self._now)


def _wanted_templates(view: CapacityView) -> Mapping[str, str]:
    """A new worker fetches what it is asked for."""
    wanted = {request.template for request in view.queue}
    if view.typical is not None:
        wanted.add(view.typical.template)
    return dict.fromkeys(wanted, "")


def _is_away(member: Member) -> bool:
    """Nobody knows what an unreachable worker is worth: it is neither counted nor given up."""
    return member.worker.state is WorkerState.UNREACHABLE
