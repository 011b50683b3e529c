"""Pressure: which sandboxes leave a host that is short of something real, and how, before its kernel chooses.

Rule 1: a sandbox that somebody has room for moves. Only what nobody can take is put to sleep, durably, and
never for want of CPU: that costs time alone.
Rule 2: those go that cost least for what they free, and no more than free what is missing to the low mark.
What is leaving already counts.
Rule 3: who takes one stays below the low marks with it, and within its promises: nobody becomes short by it.
Rule 4: so many leave at once, each is chosen once in a while, and after the last has gone the host's next
figures are waited for.
Rule 5: of a sandbox that was not measured nothing is expected, so it is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.sandbox import Sandbox, SandboxState
from sandfleet.model.worker import Worker
from sandfleet.planning.moving import choose_target, held_resources
from sandfleet.planning.placement import FleetView, NoPlacement, Placement, PlacementPolicy
from sandfleet.planning.pressure_ground import (
    KEPT,
    USUAL_MARKS,
    Load,
    Marks,
    Pressed,
    PressureMemory,
    Shortage,
    load_of,
)

T = TypeVar("T", WorkerId, SandboxId)
MOVE_COST_S = 2.0
MOVE_MIB_PER_S = 64.0
SAVE_COST_S = 20.0
"""What a sandbox misses that sleeps: the time until it is woken again, beside that of its memory."""
ACTIVE_FACTOR = 10.0
"""So much more it costs to put one to sleep that is being used."""
SAVE_ROOM = 2.0
"""A save writes the memory to the host's disk first: there must be so many times room for it."""
_LEAVING = (SandboxState.MIGRATING, SandboxState.HIBERNATING)


@dataclass(frozen=True, slots=True)
class Guest:
    """A sandbox on a host that is short, and what was measured of it."""

    sandbox: Sandbox
    uses: Mapping[Shortage, float] = field(default_factory=dict)
    """MiB of the host's memory and disk, and cores; what was not measured is left out."""
    is_active: bool = False
    reserved_mib: int = 0
    is_busy: bool = False
    """Whether something else is being done with it, or its last move is not cleared away."""


@dataclass(frozen=True, slots=True)
class PressurePolicy:
    """When a host is short, and how much may be done about it at once."""

    placement: PlacementPolicy
    marks: Mapping[Shortage, Marks] = field(default_factory=lambda: USUAL_MARKS)
    at_once: int = 2
    """How many leave one host, and come to one, at a time."""
    at_once_in_all: int = 16
    settles_s: float = 15
    pause_s: float = 120
    """How long a sandbox that was chosen is left alone, whatever became of it."""
    no_saves: str = ""
    """Why nothing may be put to sleep; empty: it may."""


@dataclass(frozen=True, slots=True)
class Shed:
    """One sandbox that is to leave its host now: to `target`, or to sleep."""

    sandbox: Sandbox
    target: WorkerId | None
    reason: str


@dataclass(frozen=True, slots=True)
class PressurePlan:
    """What is done now, and why nothing more."""

    sheds: Sequence[Shed]
    memory: PressureMemory
    held: Mapping[WorkerId, str]
    """Of each host that is short, why no more leave it now."""
    refused: Mapping[SandboxId, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Return the round in one sentence."""
        if not self.held:
            return "no host is short of anything"
        moves = sum(one.target is not None for one in self.sheds)
        said = "; ".join(f"{worker}: {why}" for worker, why in sorted(self.held.items()))
        return f"{moves} move, {len(self.sheds) - moves} are put to sleep; {said}"


def plan_pressure(
    hosts: Sequence[Pressed],
    guests: Mapping[WorkerId, Sequence[Guest]],
    workers: Sequence[Worker],
    policy: PressurePolicy,
    memory: PressureMemory,
    *,
    now: datetime,
) -> PressurePlan:
    """Plan one round. A host of which no guests are known has not answered: nothing is done there."""
    round_ = _Round(workers, policy, memory, now)
    leaving = sum(one.sandbox.state in _LEAVING for here in guests.values() for one in here)
    round_.left = policy.at_once_in_all - leaving
    for host in sorted(hosts, key=_worst_first):
        here = guests.get(host.worker.id)
        if here is None:
            round_.held[host.worker.id] = "it does not answer"
        else:
            round_.relieve(host, here)
    return PressurePlan(tuple(round_.sheds), round_.memory(), round_.held, round_.refused)


def _worst_first(host: Pressed) -> tuple[float, WorkerId]:
    loads = (load_of(host.worker, one) for one in host.shortages)
    return -max((load.share for load in loads if load is not None), default=0.0), host.worker.id


class _Round:
    """The fleet as it becomes with what is planned."""

    def __init__(
        self, workers: Sequence[Worker], policy: PressurePolicy, memory: PressureMemory, now: datetime
    ) -> None:
        self.sheds: list[Shed] = []
        self.held: dict[WorkerId, str] = {}
        self.refused: dict[SandboxId, str] = {}
        self.left = policy.at_once_in_all
        self._policy, self._before, self._now = policy, memory, now
        self._workers = {one.id: one for one in workers}
        self._coming: Counter[WorkerId] = Counter()
        self._added: dict[WorkerId, dict[Shortage, float]] = {}
        self._short = {worker for worker, _ in memory.since}
        self._shed_at = dict(memory.shed_at)
        self._chosen_at = dict(memory.chosen_at)

    def memory(self) -> PressureMemory:
        """Return what is to be remembered."""
        return replace(
            self._before, shed_at=_kept(self._shed_at, self._now), chosen_at=_kept(self._chosen_at, self._now)
        )

    def relieve(self, host: Pressed, guests: Sequence[Guest]) -> None:
        """Have as many leave as are needed."""
        name = host.worker.id
        leaving = [one for one in guests if one.sandbox.state in _LEAVING]
        if leaving:
            self._shed_at[name] = self._now
        elif self._is_settling(name):
            self.held[name] = "its figures are waited for"
            return
        room = self._policy.at_once - len(leaving)
        gone = {one.sandbox.id for one in leaving}
        for shortage in host.shortages:
            missing = self._missing(host.worker, shortage, [one for one in guests if one.sandbox.id in gone])
            chosen = self._choose(host, shortage, guests, missing, room=room, gone=gone)
            room -= len(chosen)
            gone |= chosen

    def _choose(
        self,
        host: Pressed,
        shortage: Shortage,
        guests: Sequence[Guest],
        missing: float,
        *,
        room: int,
        gone: set[SandboxId],
    ) -> set[SandboxId]:
        """Choose who leaves because of one shortage: first of those that can move, then of the others."""
        name, chosen = host.worker.id, set[SandboxId]()
        movable = [one for one in guests if one.sandbox.id not in gone and self._may_leave(one, shortage)]
        stranded: list[tuple[Guest, str]] = []
        while missing > 0 and room > len(chosen) and self.left > 0 and movable:
            guest = min(movable, key=lambda one: _move_cost(one, shortage, missing))
            movable.remove(guest)
            choice = self._target(guest)
            if isinstance(choice, Placement):
                missing -= guest.uses[shortage]
                self._shed(guest, host, shortage, choice)
                chosen.add(guest.sandbox.id)
            else:
                stranded.append((guest, _nowhere(choice)))
        while missing > 0 and room > len(chosen) and self.left > 0 and stranded:
            stranded.sort(key=lambda one: _save_cost(one[0], shortage, missing))
            guest, why = stranded.pop(0)
            refusal = self._no_save(host.worker, guest, shortage)
            if refusal:
                self.refused[guest.sandbox.id] = f"{why}; it is not put to sleep: {refusal}"
                continue
            missing -= guest.uses[shortage]
            self._shed(guest, host, shortage, None, why=why)
            chosen.add(guest.sandbox.id)
        self.held.setdefault(
            name, self._why_held(host.worker, shortage, missing, is_full=room <= len(chosen))
        )
        return chosen

    def _missing(self, worker: Worker, shortage: Shortage, leaving: Sequence[Guest]) -> float:
        load = load_of(worker, shortage)
        if load is None:
            return 0.0
        freed = sum(one.uses.get(shortage, 0.0) for one in leaving)
        return load.used - self._policy.marks[shortage].low * load.total - freed

    def _may_leave(self, guest: Guest, shortage: Shortage) -> bool:
        name, chosen_at = guest.sandbox.id, self._before.chosen_at.get(guest.sandbox.id)
        if guest.sandbox.state is not SandboxState.RUNNING:
            self.refused[name] = f"it is {guest.sandbox.state}"
        elif guest.is_busy:
            self.refused[name] = "something else is being done with it"
        elif chosen_at is not None and (self._now - chosen_at).total_seconds() < self._policy.pause_s:
            self.refused[name] = "it was chosen a short while ago"
        elif guest.uses.get(shortage, 0.0) <= 0:
            self.refused[name] = f"what it uses of the {shortage} is not known, or nothing"
        else:
            return True
        return False

    def _target(self, guest: Guest) -> Placement | NoPlacement:
        """Choose among those that stay below their low marks with it."""
        why_not = {name: self._overload(one, guest) for name, one in self._workers.items()}
        home = guest.sandbox.worker_id
        among = [one for name, one in self._workers.items() if why_not[name] is None or name == home]
        choice = choose_target(
            guest.sandbox,
            FleetView(among),
            self._policy.placement,
            wanted=None,
            reserved_mib=guest.reserved_mib,
        )
        if isinstance(choice, Placement):
            return choice
        others = {name: why for name, why in why_not.items() if why is not None and name != home}
        return replace(choice, refusals={**others, **choice.refusals})

    def _overload(self, worker: Worker, guest: Guest) -> str | None:
        if worker.id in self._short:
            return "is short itself"
        if self._coming[worker.id] >= self._policy.at_once:
            return "takes others first"
        added = self._added.get(worker.id, {})
        for shortage, mark in self._policy.marks.items():
            load = load_of(worker, shortage)
            if load is None:
                return f"has not said what {shortage} its host has"
            more = added.get(shortage, 0.0) + guest.uses.get(shortage, 0.0)
            if Load(load.used + more, load.total).share > mark.low:
                return f"would use {(load.used + more) / load.total:.0%} of its {shortage}"
        return None

    def _no_save(self, worker: Worker, guest: Guest, shortage: Shortage) -> str:
        if shortage is Shortage.CPU:
            return "a busy host is only slow"
        if self._policy.no_saves:
            return self._policy.no_saves
        disk, memory_mib = load_of(worker, Shortage.DISK), guest.uses.get(Shortage.MEMORY, 0.0)
        if disk is not None and disk.total - disk.used < SAVE_ROOM * memory_mib:
            return "its memory has no room on the disk"
        return ""

    def _shed(
        self, guest: Guest, host: Pressed, shortage: Shortage, choice: Placement | None, *, why: str = ""
    ) -> None:
        load = load_of(host.worker, shortage)
        share = "" if load is None else f" ({load.share:.0%} used)"
        reason = f"{host.worker.id} is short of {shortage}{share}: {choice.reason if choice else why}"
        target = None if choice is None else choice.worker_id
        self.sheds.append(Shed(guest.sandbox, target, reason))
        self.left -= 1
        self._shed_at[host.worker.id] = self._chosen_at[guest.sandbox.id] = self._now
        if target is not None:
            self._coming[target] += 1
            added = self._added.setdefault(target, {})
            for one, amount in guest.uses.items():
                added[one] = added.get(one, 0.0) + amount
            taken = self._workers[target]
            held = taken.committed + held_resources(guest.sandbox, guest.reserved_mib)
            self._workers[target] = replace(taken, committed=held)

    def _is_settling(self, worker_id: WorkerId) -> bool:
        last = self._shed_at.get(worker_id)
        return last is not None and (self._now - last).total_seconds() < self._policy.settles_s

    def _why_held(self, worker: Worker, shortage: Shortage, missing: float, *, is_full: bool) -> str:
        load = load_of(worker, shortage)
        share = 0.0 if load is None else load.share
        stands = f"{share:.0%} of its {shortage} is used"
        if missing <= 0:
            return f"{stands}, what leaves is enough"
        if is_full or self.left <= 0:
            return f"{stands}, others follow when these have left"
        return f"{stands}, and no more of its sandboxes can leave"


def _move_cost(guest: Guest, shortage: Shortage, missing: float) -> tuple[float, SandboxId]:
    """Return what it costs for what it frees; more than is missing is worth nothing."""
    seconds = MOVE_COST_S + guest.uses.get(Shortage.MEMORY, 0.0) / MOVE_MIB_PER_S
    return seconds / min(guest.uses[shortage], missing), guest.sandbox.id


def _save_cost(guest: Guest, shortage: Shortage, missing: float) -> tuple[float, SandboxId]:
    seconds = SAVE_COST_S + guest.uses.get(Shortage.MEMORY, 0.0) / MOVE_MIB_PER_S
    factor = ACTIVE_FACTOR if guest.is_active else 1.0
    return factor * seconds / min(guest.uses[shortage], missing), guest.sandbox.id


def _nowhere(choice: NoPlacement) -> str:
    why = "; ".join(f"{worker} {reason}" for worker, reason in sorted(choice.refusals.items()))
    return f"nobody can take it: {why or 'there is no other worker'}"


def _kept(times: Mapping[T, datetime], now: datetime) -> Mapping[T, datetime]:
    return {name: at for name, at in times.items() if now - at < KEPT}
