"""Which sandboxes leave a host that is short of something real, where each goes, and when that is enough."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.worker import Worker, WorkerState
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.pressure import Guest, PressurePlan, PressurePolicy, plan_pressure
from sandfleet.planning.pressure_ground import (
    USUAL_MARKS,
    Load,
    PressureMemory,
    Shortage,
    load_of,
    pressed,
    short_since,
)
from sandfleet.testing.builders import NOON, a_sandbox, a_worker, resources

POLICY = PressurePolicy(PlacementPolicy())
MEMORY, DISK, CPU = Shortage.MEMORY, Shortage.DISK, Shortage.CPU
HOME = WorkerId("wk-home")


def a_host(name: str = "wk-home", used_mib: int = 20000, **changes: Any) -> Worker:
    """Return a worker on a host of 20,000 MiB, 8 cores and 100 GiB of disk."""
    given: dict[str, Any] = {
        "total": resources(16384, cpu_count=64, disk_mib=10**9),
        "memory_used_mib": used_mib,
        "host_memory_mib": 20000,
        "host_cpus": 8,
        "host_disk_mib": 100_000,
        "disk_used_mib": 10_000,
    }
    return a_worker(name, **{**given, **changes})


def a_guest(name: str, used_mib: int = 1000, **changes: Any) -> Guest:
    state = changes.pop("state", SandboxState.RUNNING)
    memory_mib = changes.pop("memory_mib", 1024)
    sandbox = a_sandbox(name, state=state, worker_id=HOME, resources=resources(memory_mib))
    uses = changes.pop("uses", {MEMORY: used_mib, DISK: 100, CPU: 0.5})
    return Guest(sandbox, uses=uses, **changes)


def planned(
    *guests: Guest,
    home: Worker | None = None,
    others: tuple[Worker, ...] = (),
    policy: PressurePolicy = POLICY,
    memory: PressureMemory | None = None,
    now: datetime = NOON,
) -> PressurePlan:
    """Plan for one host that has been short for an hour."""
    workers = [home or a_host(), *others]
    known = memory or PressureMemory()
    long_ago = {(worker.id, one): NOON - timedelta(hours=1) for worker in workers for one in Shortage}
    since = short_since(workers, policy.marks, {**long_ago, **known.since}, now=now)
    hosts = pressed(workers, policy.marks, since, now=now)
    return plan_pressure(hosts, {HOME: list(guests)}, workers, policy, replace(known, since=since), now=now)


def sheds(plan: PressurePlan) -> list[tuple[str, str | None]]:
    return [(shed.sandbox.id, shed.target) for shed in plan.sheds]


def test_what_is_not_short_is_left_alone() -> None:
    assert sheds(planned(a_guest("sb-a"), home=a_host(used_mib=16000))) == []
    assert planned(home=a_host(used_mib=16000)).summary() == "no host is short of anything"


def test_as_many_move_as_free_what_is_missing_and_no_more() -> None:
    """From 20,000 MiB to 85 %: 3,000 are missing; two may leave at once."""
    away = a_host("wk-away", 2000)
    several = [a_guest(f"sb-{name}", 1600) for name in "abcd"]
    plan = planned(*several, others=(away,))
    assert sheds(plan) == [("sb-a", "wk-away"), ("sb-b", "wk-away")]
    assert plan.sheds[0].reason.startswith("wk-home is short of memory (100% used): best fit")
    assert plan.held == {HOME: "100% of its memory is used, what leaves is enough"}
    wide = replace(POLICY, at_once=10)
    assert len(sheds(planned(*several, others=(away,), policy=wide))) == 2


def test_those_go_that_cost_least_for_what_they_free() -> None:
    """Not the heaviest, of which most is not missing, and not the lightest, of which many must go."""
    away = a_host("wk-away", 0)
    guests = [a_guest("sb-tiny", 100), a_guest("sb-fits", 3000), a_guest("sb-huge", 12000)]
    assert sheds(planned(*guests, others=(away,))) == [("sb-fits", "wk-away")]


def test_what_is_leaving_already_counts() -> None:
    away = a_host("wk-away", 2000)
    leaving = a_guest("sb-a", 2900, state=SandboxState.MIGRATING)
    plan = planned(leaving, a_guest("sb-b", 1000), a_guest("sb-c", 1000), others=(away,))
    assert sheds(plan) == [("sb-b", "wk-away")]
    enough = replace(leaving, uses={MEMORY: 3000.0})
    assert sheds(planned(enough, a_guest("sb-b"), others=(away,))) == []


def test_nobody_becomes_short_by_what_comes_or_is_promised_too_much() -> None:
    guest = a_guest("sb-a", 2000)
    full = a_host("wk-full", 15500)
    promised = a_host("wk-promised", 0, committed=resources(16384))
    unsaid = a_host("wk-unsaid", 0, host_cpus=0)
    silent = a_host("wk-silent", 0, state=WorkerState.SILENT)
    plan = planned(
        guest, others=(full, promised, unsaid, silent), policy=replace(POLICY, no_saves="no store")
    )
    assert sheds(plan) == []
    assert plan.refused == {
        "sb-a": "nobody can take it: "
        "wk-full would use 88% of its memory; "
        "wk-promised short of memory: 0 free, 1024 wanted; "
        "wk-silent is silent; "
        "wk-unsaid has not said what cpu its host has; "
        "it is not put to sleep: no store"
    }


def test_what_was_planned_before_takes_its_room_of_both_kinds() -> None:
    away = a_host("wk-away", 14500)  # to its low mark 2,500 MiB are missing
    plan = planned(a_guest("sb-a", 1500), a_guest("sb-b", 1500), others=(away,))
    assert sheds(plan) == [("sb-a", "wk-away"), ("sb-b", None)]
    reserved = a_host("wk-away", 0, total=resources(1500, cpu_count=64, disk_mib=10**9))
    plan = planned(a_guest("sb-a", 1500), a_guest("sb-b", 1500), others=(reserved,))
    assert sheds(plan) == [("sb-a", "wk-away"), ("sb-b", None)]


def test_only_what_nobody_can_take_sleeps_and_the_idle_before_the_active() -> None:
    busy, idle = a_guest("sb-a", 3000, is_active=True), a_guest("sb-b", 3000)
    plan = planned(busy, idle)
    assert sheds(plan) == [("sb-b", None)]
    assert plan.sheds[0].reason == (
        "wk-home is short of memory (100% used): nobody can take it: there is no other worker"
    )
    assert sheds(planned(busy, idle, others=(a_host("wk-away", 0),))) == [("sb-a", "wk-away")]


def test_a_save_needs_room_on_the_disk_and_nobody_sleeps_for_want_of_cpu() -> None:
    crowded = a_host(host_disk_mib=100_000, disk_used_mib=95_000)
    plan = planned(a_guest("sb-a", 3000), home=crowded, policy=_without(DISK))
    assert sheds(plan) == []
    assert plan.refused[SandboxId("sb-a")].endswith(
        "it is not put to sleep: its memory has no room on the disk"
    )
    busy = a_host(used_mib=1000, cpu_percent=100.0)
    plan = planned(a_guest("sb-a"), home=busy)
    assert sheds(plan) == []
    assert plan.refused[SandboxId("sb-a")].endswith("it is not put to sleep: a busy host is only slow")
    assert sheds(planned(a_guest("sb-a"), home=busy, others=(a_host("wk-away", 0),))) == [("sb-a", "wk-away")]


def _without(shortage: Shortage) -> PressurePolicy:
    marks = {one: mark for one, mark in USUAL_MARKS.items() if one is not shortage}
    return replace(POLICY, marks=marks)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": SandboxState.WAKING}, "it is waking"),
        ({"is_busy": True}, "something else is being done with it"),
        ({"uses": {}}, "what it uses of the memory is not known, or nothing"),
    ],
)
def test_who_cannot_leave_now_is_told_why(changes: dict[str, Any], why: str) -> None:
    plan = planned(a_guest("sb-a", **changes), others=(a_host("wk-away", 0),))
    assert (sheds(plan), plan.refused) == ([], {"sb-a": why})
    assert plan.held == {HOME: "100% of its memory is used, and no more of its sandboxes can leave"}


def test_after_the_last_has_gone_new_figures_are_waited_for_and_each_is_chosen_once_in_a_while() -> None:
    away = a_host("wk-away", 0)
    guest = a_guest("sb-a", 500)
    first = planned(guest, others=(away,))
    assert sheds(first) == [("sb-a", "wk-away")]
    other = a_guest("sb-b", 500)
    soon = planned(guest, other, others=(away,), memory=first.memory, now=NOON + timedelta(seconds=14))
    assert (sheds(soon), soon.held) == ([], {HOME: "its figures are waited for"})
    settled = planned(guest, other, others=(away,), memory=first.memory, now=NOON + timedelta(seconds=15))
    assert sheds(settled) == [("sb-b", "wk-away")]
    assert settled.refused == {"sb-a": "it was chosen a short while ago"}
    later = planned(guest, others=(away,), memory=settled.memory, now=NOON + timedelta(seconds=135))
    assert sheds(later) == [("sb-a", "wk-away")]


def test_so_many_leave_at_once_in_the_whole_fleet() -> None:
    policy = replace(POLICY, at_once_in_all=1)
    plan = planned(a_guest("sb-a"), a_guest("sb-b"), others=(a_host("wk-away", 0),), policy=policy)
    assert len(sheds(plan)) == 1
    assert plan.held == {HOME: "100% of its memory is used, others follow when these have left"}


def test_a_host_that_does_not_answer_is_left_alone() -> None:
    home = a_host()
    since = {(HOME, MEMORY): NOON - timedelta(hours=1)}
    hosts = pressed([home], POLICY.marks, since, now=NOON)
    plan = plan_pressure(hosts, {}, [home], POLICY, PressureMemory(since), now=NOON)
    assert (sheds(plan), plan.held) == ([], {HOME: "it does not answer"})
    assert plan.summary() == "0 move, 0 are put to sleep; wk-home: it does not answer"


@pytest.mark.parametrize(
    ("changes", "loads"),
    [
        ({}, [Load(20000, 20000), Load(10_000, 100_000), Load(0, 8)]),
        ({"cpu_percent": 50.0}, [Load(20000, 20000), Load(10_000, 100_000), Load(4, 8)]),
        ({"host_memory_mib": 0, "host_disk_mib": 0, "host_cpus": 0}, [None, None, None]),
        # Of 10 TiB, of which 100 GiB are free, 200 GiB are counted: half of that is used.
        (
            {"host_disk_mib": 10 * 2**20, "disk_used_mib": 10 * 2**20 - 102_400},
            [Load(20000, 20000), Load(102_400, 204_800), Load(0, 8)],
        ),
        (
            {"host_disk_mib": 10 * 2**20, "disk_used_mib": 2**20},
            [Load(20000, 20000), Load(0, 204_800), Load(0, 8)],
        ),
    ],
)
def test_what_is_used_of_a_host(changes: dict[str, Any], loads: list[Load | None]) -> None:
    assert [load_of(a_host(**changes), one) for one in (MEMORY, DISK, CPU)] == loads


def test_a_host_is_short_from_the_high_mark_until_below_the_low_one() -> None:
    marks, since = USUAL_MARKS, {(HOME, MEMORY): NOON}
    high, between, low = (a_host(used_mib=mib) for mib in (18400, 17000, 16999))
    assert short_since([between], marks, {}, now=NOON) == {}
    assert short_since([high], marks, {}, now=NOON) == since
    later = NOON + timedelta(seconds=9)
    assert short_since([between], marks, since, now=later) == since
    assert short_since([low], marks, since, now=later) == {}
    for state in (WorkerState.SILENT, WorkerState.UNREACHABLE, WorkerState.GONE):
        assert short_since([replace(high, state=state)], marks, since, now=later) == {}


def test_a_moment_is_no_shortage_unless_it_is_critical() -> None:
    since = {(HOME, MEMORY): NOON}

    def due(used_mib: int, seconds: float) -> bool:
        return bool(
            pressed([a_host(used_mib=used_mib)], USUAL_MARKS, since, now=NOON + timedelta(seconds=seconds))
        )

    assert not due(18400, 9)
    assert due(18400, 10)
    assert due(19400, 0)
