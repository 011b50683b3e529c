"""The fleet thought otherwise, and what the planners would do on it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.launch import LaunchId, MachineSize
from sandfleet.planning.capacity import CapacityPlan
from sandfleet.planning.capacity_memory import CapacityMemory
from sandfleet.planning.capacity_policy import DesiredSum
from sandfleet.planning.fleet import (
    AbandonLaunch,
    CapacityView,
    DrainWorker,
    KeepWorker,
    LaunchMachine,
    Member,
    RemoveWorker,
    Resident,
)
from sandfleet.planning.fleet_changes import AddSandboxes, AddWorkers, NoSuchWorker, WithoutWorker, changed
from sandfleet.planning.given_fleet import GivenFleet, GivenSandbox, GivenWorker
from sandfleet.planning.placement import PlacementPolicy, PlacementRequest
from sandfleet.planning.pressure import PressurePolicy, plan_pressure
from sandfleet.planning.pressure_ground import PressureMemory, Shortage, pressed, short_since
from sandfleet.planning.what_if import WhatIf, emptied, placed, relieved, sized
from sandfleet.testing.builders import NOON, a_worker, resources

REQUEST = PlacementRequest(resources(4096), "base", "local")
SIZE = MachineSize("thought", "worker", resources(8192, cpu_count=4, disk_mib=10**6))
A, B = WorkerId("wk-a"), WorkerId("wk-b")
POLICY = PlacementPolicy()


def member(name: str, *residents: int, total_mib: int = 8192) -> Member:
    held = [
        Resident(SandboxId(f"sb-{name}-{at}"), replace(REQUEST, resources=resources(mib)))
        for at, mib in enumerate(residents)
    ]
    worker = a_worker(
        name,
        total=resources(total_mib, cpu_count=8, disk_mib=10**6),
        committed=resources(sum(residents), cpu_count=len(residents)),
        worker_version="v1",
    )
    return Member(worker, "local/worker", NOON, residents=held)


def test_each_is_placed_on_what_those_before_it_have_left() -> None:
    workers = [member("wk-a", 4096).worker, member("wk-b").worker]
    found = placed([(name, REQUEST) for name in "1234"], workers, POLICY, command="place")
    assert [(one.command, one.to) for one in found.decisions] == [
        ("place", "wk-a"),
        ("place", "wk-b"),
        ("place", "wk-b"),
        ("wait", None),
    ]
    assert found.summary == "place: 3 of 4 find a place"
    why = {(one.subject, one.worker_id): (one.filter, one.reason) for one in found.rejected}
    assert why["1", B] == ("score", "another is fuller; best fit: 50% of memory committed after it")
    assert why["4", A][0] == why["4", B][0] == "memory"


def test_an_emptied_worker_goes_when_all_on_it_fits_elsewhere() -> None:
    full, free = member("wk-a", 1024, 2048), member("wk-b")
    found = emptied(full, [full, free], POLICY, is_removed=True)
    assert [(one.command, one.subject, one.to) for one in found.decisions] == [
        ("move", "sb-wk-a-0", "wk-b"),
        ("move", "sb-wk-a-1", "wk-b"),
        ("remove", "wk-a", None),
    ]
    drained = emptied(full, [full, free], POLICY, is_removed=False)
    assert drained.summary == "wk-a: 2 sandboxes move, 0 stay"


def test_a_worker_with_one_that_fits_nowhere_stays() -> None:
    full, other = member("wk-a", 1024, 8192), member("wk-b", 4096)
    found = emptied(full, [full, other], POLICY, is_removed=True)
    assert found.rejected[-1].filter == "residents"
    assert "remove" not in {one.command for one in found.decisions}
    assert found.summary == "wk-a stays: 1 of its sandboxes find no place elsewhere"


def test_every_command_of_capacity_is_told_with_its_reason() -> None:
    plan = CapacityPlan(
        needed=DesiredSum(1, 0, 0, 0, 1, 3),
        current=2,
        commands=(
            LaunchMachine(LaunchId("launch-1"), "local/worker", "v1", "demand"),
            AbandonLaunch(LaunchId("launch-0"), "late"),
            DrainWorker(A, DrainOwner.CAPACITY, "spare"),
            KeepWorker(B, DrainOwner.CAPACITY, "needed"),
            RemoveWorker(A, "empty"),
        ),
        memory=CapacityMemory(),
        refused_workers={B: "is young"},
        refused_sizes={"ec2/spot": "out of stock"},
    )
    found = sized(plan)
    assert [(one.command, one.subject, one.to, one.reason) for one in found.decisions] == [
        ("launch", "launch-1", "local/worker", "demand"),
        ("abandon", "launch-0", None, "late"),
        ("drain", "wk-a", None, "spare"),
        ("keep", "wk-b", None, "needed"),
        ("remove", "wk-a", None, "empty"),
    ]
    assert [(one.subject, one.worker_id, one.filter) for one in found.rejected] == [
        ("wk-b", "wk-b", "capacity"),
        ("ec2/spot", None, "size"),
    ]
    both = found + WhatIf("and more")
    assert both.summary.endswith("; and more")
    assert both.decisions == tuple(found.decisions)


def test_changes_are_made_one_after_the_other_and_leave_the_view_alone() -> None:
    view = CapacityView(members=(member("wk-a", 4096), member("wk-b")))
    found = changed(
        view,
        [
            AddWorkers(2, SIZE, "base"),
            AddSandboxes(2, REQUEST, WorkerId("wk-new-1-2")),
            AddSandboxes(1, REQUEST),
            WithoutWorker(A),
        ],
        now=NOON,
    )
    members = {one.worker.id: one for one in found.members}
    assert set(members) == {"wk-b", "wk-new-1-1", "wk-new-1-2"}
    new = members[WorkerId("wk-new-1-2")]
    assert (new.worker.worker_version, new.worker.committed.memory_mib, len(new.residents)) == ("v1", 8192, 2)
    assert found.queue == (REQUEST, REQUEST)
    assert (len(view.members), view.queue) == (2, ())
    other = changed(view, [AddWorkers(1, SIZE, "base", version="v2")], now=NOON)
    assert other.members[-1].worker.worker_version == "v2"


def test_a_worker_that_is_not_there_cannot_be_thought_away() -> None:
    with pytest.raises(NoSuchWorker, match="wk-none"):
        changed(CapacityView(members=()), [WithoutWorker(WorkerId("wk-none"))], now=NOON)


def test_who_would_leave_a_host_that_is_short_is_told_with_where_to() -> None:
    """A fleet that is described is planned on as one that is there would be."""
    used = {Shortage.MEMORY: 3000.0, Shortage.DISK: 0.0, Shortage.CPU: 0.1}
    host = {"host_memory_mib": 10_000, "host_disk_mib": 10**5, "host_cpus": 8}
    heavy = GivenSandbox(SandboxId("sb-heavy"), resources(4096), "base", "local", used)
    small = GivenSandbox(SandboxId("sb-small"), resources(1024), "base", "local")
    short, free = a_worker("wk-a", memory_used_mib=9_900, **host), a_worker("wk-b", **host)
    fleet = GivenFleet(
        [GivenWorker(short, "ec2/large", NOON, (heavy, small)), GivenWorker(free, "ec2/large", NOON)],
        waiting=[REQUEST],
    )
    view, policy = fleet.view(REQUEST, version="v1"), PressurePolicy(POLICY)
    workers = [one.worker for one in view.members]
    assert [one.committed.memory_mib for one in workers] == [5120, 0]
    assert (list(view.queue), view.version, view.members[1].is_proven_empty) == ([REQUEST], "v1", True)
    since = short_since(workers, policy.marks, {}, now=NOON)
    hosts = pressed(workers, policy.marks, since, now=NOON + timedelta(minutes=1))
    plan = plan_pressure(hosts, fleet.guests(now=NOON), workers, policy, PressureMemory(since), now=NOON)
    told = relieved(plan)
    assert [(one.command, one.subject, one.to) for one in told.decisions] == [("move", "sb-heavy", "wk-b")]
    assert told.decisions[0].reason.startswith("wk-a is short of memory (99% used)")
    assert [one.subject for one in told.rejected] == ["wk-a", "sb-small"]
    assert fleet.guests(now=NOON)[B] == []
