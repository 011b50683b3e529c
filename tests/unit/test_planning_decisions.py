"""Expiry, repair and admission: small pure decisions."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sandfleet.controlplane.heartbeats import activity_of
from sandfleet.model.ids import SandboxId, SnapshotId, WorkerId
from sandfleet.model.organisation import Excess, Quotas, first_excess
from sandfleet.model.sandbox import SandboxState
from sandfleet.model.snapshot import Snapshot, SnapshotState
from sandfleet.planning.expiry import due, idle_s
from sandfleet.planning.repair import (
    RECOVERIES_MAX,
    Held,
    NoRecovery,
    Presence,
    Recovery,
    mismatch,
    recovery,
)
from sandfleet.testing.builders import NOON, ORGANISATION, a_sandbox, resources
from sandfleet.wire.worker_messages import Heartbeat, VmStatus

RUNNING = SandboxState.RUNNING


def test_the_longest_idle_expire_first_and_no_more_than_the_limit() -> None:
    candidates = [
        a_sandbox(f"sb-{ago}", state=RUNNING, timeout_s=60, active_at=NOON - timedelta(seconds=ago))
        for ago in (61, 500, 59, 100)
    ]
    commands = due(candidates, now=NOON, limit=2)
    assert [(command.sandbox.id, command.idle_s) for command in commands] == [
        ("sb-500", 500),
        ("sb-100", 100),
    ]


def test_only_running_sandboxes_with_a_timeout_expire() -> None:
    long_ago = NOON - timedelta(days=9)
    candidates = [
        a_sandbox("sb-never", state=RUNNING, timeout_s=0, active_at=long_ago),
        a_sandbox("sb-creating", timeout_s=5, active_at=long_ago),
    ]
    assert due(candidates, now=NOON, limit=9) == []


def test_idle_time_begins_with_the_last_that_is_known_and_is_never_negative() -> None:
    minute = timedelta(seconds=60)
    assert idle_s(a_sandbox(active_at=None, started_at=NOON - minute), now=NOON) == 60
    assert idle_s(a_sandbox(active_at=None, changed_at=NOON - 2 * minute), now=NOON) == 120
    assert idle_s(a_sandbox(active_at=NOON + minute), now=NOON) == 0


def row(
    name: str, state: SandboxState = RUNNING, *, reserved: bool = True, open_operation: bool = False
) -> Presence:
    return Presence(SandboxId(name), state, 1, reserved, open_operation)


def vm(name: str, *, is_dead: bool = False, reason: str | None = None) -> Held:
    return Held(SandboxId(name), is_dead=is_dead, reason=reason)


def test_what_agrees_is_no_mismatch() -> None:
    found = mismatch([row("a"), row("b", SandboxState.CREATING)], [vm("a")])
    assert (found.unowned, found.lost) == (frozenset(), {})


@pytest.mark.parametrize(
    ("owner", "is_unowned"),
    [
        (None, True),
        (row("a", SandboxState.STOPPED, reserved=True), False),
        (row("a", SandboxState.STOPPED, reserved=False), True),
        (row("a", SandboxState.STOPPED, reserved=False, open_operation=True), False),
        (row("a", SandboxState.CREATING, reserved=False), False),
    ],
)
def test_a_machine_is_owned_by_a_living_row_a_reservation_or_an_operation(
    owner: Presence | None, is_unowned: bool
) -> None:
    found = mismatch([owner] if owner else [], [vm("a")])
    assert (SandboxId("a") in found.unowned) == is_unowned


def test_a_running_row_is_lost_without_a_living_machine_unless_something_is_under_way() -> None:
    found = mismatch(
        [row("gone"), row("dead"), row("quiet"), row("moving", open_operation=True), row("alive")],
        [vm("dead", is_dead=True, reason="out of memory"), vm("quiet", is_dead=True), vm("alive")],
    )
    assert found.lost == {
        "gone": "its worker has no such machine any more",
        "dead": "out of memory",
        "quiet": "its machine died",
    }


@pytest.mark.parametrize(
    ("quotas", "excess"),
    [
        (Quotas(), None),
        (Quotas(sandboxes=3, vcpu=3, memory_mib=3072, disk_mib=61440), None),
        (Quotas(sandboxes=2), Excess("sandboxes", 2, 2)),
        (Quotas(vcpu=2), Excess("vcpu", 2, 2)),
        (Quotas(memory_mib=3071), Excess("memoryMB", 3071, 2048)),
        (Quotas(disk_mib=0), Excess("diskMB", 0, 40960)),
    ],
)
def test_the_first_quota_that_would_be_exceeded(quotas: Quotas, excess: Excess | None) -> None:
    used = Quotas(sandboxes=2, vcpu=2, memory_mib=2048, disk_mib=40960)
    assert first_excess(quotas, used, resources()) == excess


def test_activity_counts_what_is_in_flight_as_now_and_leaves_out_what_is_long_idle() -> None:
    vms = [
        VmStatus(sandbox_id="sb-busy", epoch=1, state="running", in_flight=1, idle_s=999),
        VmStatus(sandbox_id="sb-just", epoch=1, state="running", idle_s=3),
        VmStatus(sandbox_id="sb-idle", epoch=1, state="running", idle_s=999),
    ]
    assert activity_of(_beat(vms), now=NOON) == {"sb-busy": NOON, "sb-just": NOON - timedelta(seconds=3)}
    assert activity_of(_beat(None), now=NOON) == {}


def _beat(vms: list[VmStatus] | None) -> Heartbeat:
    return Heartbeat(
        worker_id="wk-one",
        instance_id="p",
        sequence=1,
        machine_id="m",
        region="local",
        http_url="",
        worker_version="",
        accelerator="",
        cpu_model="",
        templates={},
        total_memory_mib=1,
        total_cpu=1,
        total_disk_mib=1,
        memory_used_mib=0,
        cpu_percent=0,
        disk_used_mib=0,
        vms=vms,
    )


HERE = WorkerId("wk-here")


def saved(
    name: str, *, ago_s: int, state: SnapshotState = SnapshotState.DURABLE, worker: str = "wk-here"
) -> Snapshot:
    return Snapshot(
        id=SnapshotId(name),
        organisation_id=ORGANISATION,
        sandbox_id=SandboxId("a"),
        state=state,
        created_at=NOON - timedelta(seconds=ago_s),
        worker_id=WorkerId(worker),
    )


def chosen(*snapshots: Snapshot, answering: WorkerId | None = HERE) -> str | None:
    found = recovery("it died", snapshots, recovered_at=[], answering=answering, now=NOON)
    return found.snapshot.id if isinstance(found, Recovery) else None


def test_a_lost_sandbox_comes_back_from_the_newest_state_that_can_be_had() -> None:
    old, new = saved("old", ago_s=900), saved("new", ago_s=60)
    assert chosen(old, new) == "new"
    assert chosen(old, saved("unfinished", ago_s=1, state=SnapshotState.SAVING)) == "old"
    assert chosen() is None


def test_a_state_on_one_disk_alone_needs_the_worker_that_has_it() -> None:
    durable = saved("durable", ago_s=900)
    local = saved("local", ago_s=60, state=SnapshotState.LOCAL)
    elsewhere = saved("elsewhere", ago_s=1, state=SnapshotState.LOCAL, worker="wk-else")
    assert chosen(durable, local, elsewhere) == "local"
    assert chosen(durable, local, elsewhere, answering=None) == "durable"


def test_the_reason_says_what_is_lost() -> None:
    found = recovery("it died", [saved("a", ago_s=60)], recovered_at=[], answering=HERE, now=NOON)
    assert found.reason == (
        f"it died; it goes back to what was saved at {(NOON - timedelta(seconds=60)).isoformat()}, "
        "what it did in 60 s since is lost"
    )


def test_a_sandbox_that_dies_again_and_again_is_not_recovered_for_ever() -> None:
    recent = [NOON - timedelta(minutes=minutes) for minutes in range(RECOVERIES_MAX)]
    given_up = recovery("it died", [saved("a", ago_s=60)], recovered_at=recent, answering=HERE, now=NOON)
    assert given_up == NoRecovery("it died; it was recovered 3 times within the last hour")
    long_ago = [at - timedelta(hours=1) for at in recent]
    assert isinstance(
        recovery("it died", [saved("a", ago_s=60)], recovered_at=long_ago, answering=HERE, now=NOON), Recovery
    )
