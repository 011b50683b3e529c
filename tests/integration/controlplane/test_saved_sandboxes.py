"""Hibernate, wake, checkpoints, restore and forks over HTTP, with a real worker service and object store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.waiting import eventually

from sandfleet.adapters.blobs.snapshot_store import ObjectSnapshotStore
from sandfleet.controlplane.api import hibernation
from sandfleet.model.errors import Conflict, GuestUnresponsive, HypervisorFailed, StoreUnavailable
from sandfleet.model.ids import SandboxId

from .conftest import Fleet, OpenFleet

UNKNOWN_UUID = "00000000-0000-4000-8000-000000000000"


async def post(fleet: Fleet, path: str, body: Any = None, **options: Any) -> httpx.Response:
    return await fleet.client.post(f"/api/sandboxes/{path}", json=body, **options)


async def write(fleet: Fleet, sandbox: str, text: str, path: str = "/tmp/note") -> None:
    answer = await fleet.client.put(f"/api/sandboxes/{sandbox}/files?path={path}", content=text.encode())
    assert answer.status_code == 204, answer.text


async def read(fleet: Fleet, sandbox: str, path: str = "/tmp/note") -> str:
    answer = await fleet.client.get(f"/api/sandboxes/{sandbox}/files?path={path}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def status(fleet: Fleet, sandbox: str) -> str:
    return str((await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()["status"])


async def comes_to(fleet: Fleet, sandbox: str, wanted: str) -> None:
    """Return when it has that status."""

    async def has_come() -> bool:
        return await status(fleet, sandbox) == wanted

    await eventually(has_come, what=f"the sandbox to be {wanted}")


async def hibernate(fleet: Fleet, sandbox: str) -> dict[str, Any]:
    answer = await post(fleet, f"{sandbox}/hibernate")
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "hibernated"
    return dict(answer.json())


async def checkpoint(fleet: Fleet, sandbox: str, name: str = "one") -> dict[str, Any]:
    """Return a checkpoint that is ready."""
    answer = await post(fleet, f"{sandbox}/checkpoints", {"name": name})
    assert (answer.status_code, answer.json().get("status")) == (201, "processing"), answer.text

    async def ready() -> dict[str, Any] | None:
        (found,) = [one for one in await listed(fleet, sandbox) if one["name"] == name]
        return found if found["status"] == "ready" else None

    return await eventually(ready, what="the checkpoint to be ready") or {}


async def listed(fleet: Fleet, sandbox: str) -> list[dict[str, Any]]:
    answer = await fleet.client.get(f"/api/sandboxes/{sandbox}/checkpoints")
    assert answer.status_code == 200
    return list(answer.json())


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json()["code"])


# --- hibernate and wake


async def test_hibernate_and_wake_keep_what_was_there(fleet: Fleet) -> None:
    sandbox = await fleet.create(timeout=600)
    await write(fleet, sandbox, "before")
    saved = await hibernate(fleet, sandbox)
    assert set(saved) == {
        "sandboxID", "sandboxId", "status", "hibernationKey", "sizeBytes",
        "region", "template", "hibernatedAt",
    }  # fmt: skip
    assert (saved["sandboxID"], saved["sandboxId"], saved["sizeBytes"] > 0) == (sandbox, sandbox, True)
    assert fleet.hypervisor.machines == {}
    seen = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()
    assert (seen["status"], seen["workerID"], seen["idleExpiresAt"]) == ("hibernated", None, None)
    assert sandbox not in [one["sandboxID"] for one in (await fleet.client.get("/api/sandboxes")).json()]
    woken = await post(fleet, f"{sandbox}/wake")
    assert (woken.status_code, woken.json()["status"], woken.json()["timeout"]) == (200, "running", 600)
    assert await read(fleet, sandbox) == "before"


async def test_a_wake_may_set_another_timeout(fleet: Fleet) -> None:
    sandbox = await fleet.create(timeout=600)
    await hibernate(fleet, sandbox)
    assert code(await post(fleet, f"{sandbox}/wake", {"timeout": -1})) == (400, "invalid_argument")
    assert (await post(fleet, f"{sandbox}/wake", {"timeout": 0})).json()["timeout"] == 0


async def test_verbs_in_the_wrong_status_are_refused(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    answer = await post(fleet, f"{sandbox}/wake")
    assert (*code(answer), answer.json()["error"]) == (400, "not_hibernated", "sandbox is not hibernated")
    await hibernate(fleet, sandbox)
    for verb, body in (("hibernate", None), ("checkpoints", {"name": "x"}), ("fork", None)):
        answer = await post(fleet, f"{sandbox}/{verb}", body)
        assert (*code(answer), answer.json()["error"]) == (400, "not_running", "sandbox is not running")
    assert (await fleet.client.delete(f"/api/sandboxes/{sandbox}")).status_code == 204
    for verb, body in (("hibernate", None), ("wake", None), ("checkpoints", {"name": "x"}), ("fork", None)):
        answer = await post(fleet, f"{sandbox}/{verb}", body)
        assert (*code(answer), answer.json()["error"]) == (410, "gone", f"sandbox {sandbox} has been stopped")


@pytest.mark.parametrize("call", ["exec", "file", "run-async"])
async def test_a_data_plane_call_wakes_it(fleet: Fleet, call: str) -> None:
    sandbox = await fleet.create()
    await write(fleet, sandbox, "before")
    await hibernate(fleet, sandbox)
    if call == "exec":
        answer = await post(fleet, f"{sandbox}/exec/run", {"cmd": "echo here"})
        assert answer.json()["stdout"] == "here\n"
    elif call == "file":
        assert await read(fleet, sandbox) == "before"
    else:
        handle = (await post(fleet, f"{sandbox}/exec/run-async", {"cmd": "echo later"})).json()
        assert handle["waking"] is True

        async def ended() -> dict[str, Any] | None:
            result = f"/api/sandboxes/{sandbox}/exec/{handle['execId']}/result"
            seen: dict[str, Any] = (await fleet.client.get(result)).json()
            return None if seen["running"] else seen

        seen = await eventually(ended, what="the command to end")
        assert seen is not None
        assert (seen["exitCode"], seen["stdout"]) == (0, "later\n")
    assert await status(fleet, sandbox) == "running"


async def test_calls_at_the_same_time_share_one_wake(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    look, joined = hibernation.open_wake, list[Any]()

    async def noting(*given: Any) -> Any:
        found = await look(*given)
        joined.append(found)
        return found

    monkeypatch.setattr(hibernation, "open_wake", noting)
    sandbox = await fleet.create()
    await hibernate(fleet, sandbox)
    fleet.hypervisor.faults.hold("load")
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(post(fleet, f"{sandbox}/exec/run", {"cmd": "echo here"})) for _ in range(10)
        ]
        await fleet.hypervisor.faults.reached("load")
        asked.append(group.create_task(post(fleet, f"{sandbox}/wake")))
        asked.append(group.create_task(post(fleet, f"{sandbox}/wake", {"timeout": 5})))
        await eventually(lambda: len(joined) == 2, what="both to find the wake that is under way")
        fleet.hypervisor.faults.release("load")
    assert [one.result().status_code for one in asked] == [200] * 12
    assert asked[-1].result().json()["timeout"] == 5
    log = (await fleet.client.get(f"/api/sandboxes/{sandbox}/events")).json()
    assert [row["event"] for row in log].count("wake_requested") == 1


async def test_what_does_not_reach_into_the_guest_wakes_nobody(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    await hibernate(fleet, sandbox)
    assert (await post(fleet, f"{sandbox}/timeout", {"timeout": 30})).status_code == 204
    assert (await post(fleet, f"{sandbox}/exec/run", {"cmd": ""})).status_code == 400
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}/files")).status_code == 400
    assert await listed(fleet, sandbox) == []
    assert (await fleet.client.get(f"/api/sandboxes/{sandbox}/events")).status_code == 200
    assert await status(fleet, sandbox) == "hibernated"
    assert (await post(fleet, f"{sandbox}/wake")).json()["timeout"] == 30


async def test_an_async_wake_is_told_to_come_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandfleet.controlplane.api.files.ASYNC_WAKE_WAIT_S", 0.2)
    sandbox = await fleet.create()
    await write(fleet, sandbox, "before")
    route = await fleet.edge.plane.routes.get(SandboxId(sandbox))
    assert route is not None
    await hibernate(fleet, sandbox)
    fleet.hypervisor.faults.hold("load")
    path = f"/api/sandboxes/{sandbox}/files?path=/tmp/note"
    for _ in range(2):
        answer = await fleet.client.get(path, headers={"X-OSB-Async-Wake": "1"})
        assert (*code(answer), answer.json()["waking"]) == (503, "waking", True)
        await fleet.edge.plane.routes.put(route)  # where others still think that it is
    assert await status(fleet, sandbox) == "waking"
    fleet.hypervisor.faults.release("load")
    assert await read(fleet, sandbox) == "before"


async def test_without_a_place_it_stays_hibernated(open_fleet: OpenFleet) -> None:
    async with open_fleet(memory_budget_mib=1024, creation_queue_s=1.3) as fleet:
        sandbox = await fleet.create()
        await hibernate(fleet, sandbox)
        other = await fleet.create()
        for call in ("wake", "exec/run"):
            answer = await post(fleet, f"{sandbox}/{call}", {"cmd": "true"})
            assert code(answer) == (503, "no_capacity"), answer.text
            assert int(answer.headers["Retry-After"]) >= 5
            assert await status(fleet, sandbox) == "hibernated"
        await fleet.client.delete(f"/api/sandboxes/{other}")
        assert (await post(fleet, f"{sandbox}/wake")).json()["status"] == "running"


async def test_a_damaged_state_is_refused_with_its_reason_and_kept(fleet: Fleet, tmp_path: Path) -> None:
    sandbox = await fleet.create()
    await write(fleet, sandbox, "before")
    saved = await hibernate(fleet, sandbox)
    stored = f"snapshots/{saved['hibernationKey']}*"
    await eventually(lambda: list((tmp_path / "store").glob(stored)), what="the upload")
    local = tmp_path / "worker" / "snapshots" / saved["hibernationKey"] / "memory"
    local.write_bytes(b"{}")
    for chunk in (tmp_path / "store" / "chunks").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"garbage")
    answer = await post(fleet, f"{sandbox}/exec/run", {"cmd": "true"})
    assert code(answer) == (410, "gone"), answer.text
    seen = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()
    assert (seen["status"], bool(seen["errorMsg"])) == ("error", True)
    assert fleet.hypervisor.machines == {}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (GuestUnresponsive("agent unresponsive: no answer"), (504, "agent_unresponsive")),
        (Conflict("rootfs disk usage 97%", code="guest_disk_full"), (409, "guest_disk_full")),
        (HypervisorFailed("the host's disk is full"), (500, "internal")),
    ],
)
async def test_a_hibernation_that_fails_says_why_and_leaves_it_running(
    fleet: Fleet, failure: Exception, expected: tuple[int, str]
) -> None:
    sandbox = await fleet.create()
    fleet.hypervisor.faults.fail("save", failure)
    answer = await post(fleet, f"{sandbox}/hibernate")
    assert (*code(answer), answer.json()["error"]) == (*expected, str(failure))
    assert (await post(fleet, f"{sandbox}/exec/run", {"cmd": "echo on"})).json()["stdout"] == "on\n"


async def test_the_25_second_rule_and_the_turn_of_verbs(open_fleet: OpenFleet) -> None:
    async with open_fleet(answer_by_s=0.3, sandbox_wait_s=0.8) as fleet:
        sandbox = await fleet.create()
        fleet.hypervisor.faults.hold("save")
        answer = await post(fleet, f"{sandbox}/hibernate")
        assert (answer.status_code, answer.json()["status"]) == (200, "hibernating")
        assert code(await post(fleet, f"{sandbox}/hibernate")) == (400, "not_running")
        assert code(await post(fleet, f"{sandbox}/wake")) == (409, "operation_in_progress")
        assert code(await post(fleet, f"{sandbox}/checkpoints", {"name": "x"})) == (
            409,
            "operation_in_progress",
        )
        fleet.hypervisor.faults.release("save")
        await comes_to(fleet, sandbox, "hibernated")
        fleet.hypervisor.faults.hold("load")
        woken = await post(fleet, f"{sandbox}/wake", headers={"Prefer": "respond-async"})
        assert woken.json()["status"] == "waking"
        fleet.hypervisor.faults.release("load")
        await comes_to(fleet, sandbox, "running")
        assert (await post(fleet, f"{sandbox}/exec/run", {"cmd": "echo on"})).json()["stdout"] == "on\n"


@pytest.mark.parametrize("step", ["save", "load"])
async def test_a_kill_wins_at_once(fleet: Fleet, step: str) -> None:
    sandbox = await fleet.create()
    if step == "load":
        await hibernate(fleet, sandbox)
    verb = {"save": "hibernate", "load": "wake"}[step]
    fleet.hypervisor.faults.hold(step)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(post(fleet, f"{sandbox}/{verb}"))
        await fleet.hypervisor.faults.reached(step)
        assert (await fleet.client.delete(f"/api/sandboxes/{sandbox}")).status_code == 204
        assert await status(fleet, sandbox) == "stopped"
        fleet.hypervisor.faults.release(step)
    assert code(asked.result()) == (410, "gone")
    assert code(await post(fleet, f"{sandbox}/wake")) == (410, "gone")
    await eventually(lambda: not fleet.hypervisor.machines, what="the machine to end")


async def test_the_idle_timer_hibernates(fleet: Fleet) -> None:
    sandbox = await fleet.create(timeout=1)
    await comes_to(fleet, sandbox, "hibernated")
    assert (await post(fleet, f"{sandbox}/exec/run", {"cmd": "echo on"})).json()["stdout"] == "on\n"


async def test_a_server_without_an_object_store_saves_nothing(open_fleet: OpenFleet) -> None:
    async with open_fleet(blob_store_url=None) as fleet:
        sandbox = await fleet.create(timeout=2)
        assert code(await post(fleet, f"{sandbox}/hibernate")) == (501, "not_available")
        assert code(await post(fleet, f"{sandbox}/checkpoints", {"name": "x"})) == (501, "not_available")
        await comes_to(fleet, sandbox, "stopped")
        seen = (await fleet.client.get(f"/api/sandboxes/{sandbox}")).json()
        assert seen["stopReason"] == "expired"


async def test_the_same_key_is_one_hibernation(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    key = {"Idempotency-Key": "k-1"}
    first, second = await asyncio.gather(*(post(fleet, f"{sandbox}/hibernate", headers=key) for _ in "ab"))
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert sorted(["Idempotency-Replayed" in one.headers for one in (first, second)]) == [False, True]
    await post(fleet, f"{sandbox}/wake")
    assert (await post(fleet, f"{sandbox}/hibernate", headers=key)).json() == first.json()
    assert await status(fleet, sandbox) == "running"


async def test_a_wake_whose_answer_was_lost_is_answered_as_woken(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt woke it: that it runs by now is what was asked for, not a reason to refuse."""
    sandbox = await fleet.create()
    await post(fleet, f"{sandbox}/hibernate")
    key = {"Idempotency-Key": "k-1"}

    async def lost(*_given: object) -> None:
        raise StoreUnavailable("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(hibernation, "outcome", lost)
        assert (await post(fleet, f"{sandbox}/wake", headers=key)).status_code == 503
    await comes_to(fleet, sandbox, "running")
    again = await post(fleet, f"{sandbox}/wake", headers=key)
    assert (again.status_code, again.json()["status"]) == (200, "running")


async def test_a_joined_wake_whose_answer_was_lost_is_answered_as_woken(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeat goes by the wake that the first attempt joined, though another request began it."""
    sandbox = await fleet.create()
    await write(fleet, sandbox, "kept")
    await hibernate(fleet, sandbox)
    key = {"Idempotency-Key": "k-1"}

    async def lost(*_given: object) -> None:
        raise StoreUnavailable("the connection broke")

    fleet.hypervisor.faults.hold("load")
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read(fleet, sandbox))
        await fleet.hypervisor.faults.reached("load")
        with monkeypatch.context() as broken:
            broken.setattr(hibernation, "outcome", lost)
            assert (await post(fleet, f"{sandbox}/wake", headers=key)).status_code == 503
        fleet.hypervisor.faults.release("load")
    assert reading.result() == "kept"
    again = await post(fleet, f"{sandbox}/wake", headers=key)
    assert (again.status_code, again.json()["status"]) == (200, "running")
    assert code(await post(fleet, f"{sandbox}/wake")) == (
        400,
        "not_hibernated",
    )  # a new request comes too late


async def test_a_wake_that_finds_it_woken_when_its_turn_comes_has_what_it_asked_for(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await fleet.create()
    await hibernate(fleet, sandbox)

    looks = 0

    async def too_early(*_given: object) -> None:
        nonlocal looks
        looks += 1  # and the other's wake was not there yet

    monkeypatch.setattr(hibernation, "open_wake", too_early)
    fleet.hypervisor.faults.hold("load")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(post(fleet, f"{sandbox}/wake"))
        await fleet.hypervisor.faults.reached("load")
        before = looks
        second = group.create_task(post(fleet, f"{sandbox}/wake", {"timeout": 90}))
        await eventually(lambda: looks > before, what="the second to look")
        fleet.hypervisor.faults.release("load")
    answers = [(one.result().status_code, one.result().json()["status"]) for one in (first, second)]
    assert answers == [(200, "running")] * 2
    assert second.result().json()["timeout"] == 90


# --- checkpoints, restore, fork


async def test_a_checkpoint_can_be_restored_and_forked(fleet: Fleet) -> None:
    sandbox = await fleet.create(metadata={"a": "1"}, envs={"A": "secret"})
    await write(fleet, sandbox, "before")
    made = await checkpoint(fleet, sandbox)
    assert (made["sizeBytes"] > 0, bool(made["rootfsS3Key"]), bool(made["workspaceS3Key"])) == (True,) * 3
    assert "secret" not in str(made)
    await write(fleet, sandbox, "after")
    fork = await post(fleet, f"from-checkpoint/{made['id']}", {"timeout": 5, "metadata": {"b": "2"}})
    assert fork.status_code == 201, fork.text
    assert (fork.json()["status"], fork.json()["fromCheckpointId"]) == ("running", made["id"])
    assert (fork.json()["metadata"], fork.json()["timeout"]) == ({"a": "1", "b": "2"}, 5)
    assert await read(fleet, fork.json()["sandboxID"]) == "before"
    restored = await post(fleet, f"{sandbox}/checkpoints/{made['id']}/restore")
    assert (restored.status_code, restored.json()) == (
        200,
        {"sandboxId": sandbox, "checkpointId": made["id"], "status": "restoring"},
    )
    assert await read(fleet, sandbox) == "before"
    assert (
        await fleet.client.delete(f"/api/sandboxes/{sandbox}/checkpoints/{made['id']}")
    ).status_code == 204
    assert await listed(fleet, sandbox) == []
    assert await read(fleet, fork.json()["sandboxID"]) == "before"


async def test_checkpoints_outlive_their_sandbox(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    await write(fleet, sandbox, "before")
    made = await checkpoint(fleet, sandbox)
    await fleet.client.delete(f"/api/sandboxes/{sandbox}")
    assert [one["id"] for one in await listed(fleet, sandbox)] == [made["id"]]
    fork = await post(fleet, f"from-checkpoint/{made['id']}")
    assert await read(fleet, fork.json()["sandboxID"]) == "before"


async def test_what_is_wrong_with_a_checkpoint_is_said(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    other = await fleet.create()
    made = await checkpoint(fleet, sandbox)
    for body in ({}, {"name": ""}, {"name": 5}):
        assert code(await post(fleet, f"{sandbox}/checkpoints", body)) == (400, "bad_request")
    assert code(await post(fleet, f"{sandbox}/checkpoints", {"name": "one"})) == (409, "name_taken")
    for path, expected in (
        (f"{sandbox}/checkpoints/nonsense/restore", (400, "bad_request")),
        (f"{sandbox}/checkpoints/{UNKNOWN_UUID}/restore", (404, "not_found")),
        (f"{other}/checkpoints/{made['id']}/restore", (400, "checkpoint_mismatch")),
        ("from-checkpoint/nonsense", (400, "bad_request")),
        (f"from-checkpoint/{UNKNOWN_UUID}", (404, "not_found")),
    ):
        assert code(await post(fleet, path)) == expected
    for path, expected in (
        ("nonsense", (400, "bad_request")),
        (UNKNOWN_UUID, (404, "not_found")),
    ):
        answer = await fleet.client.delete(f"/api/sandboxes/{sandbox}/checkpoints/{path}")
        assert code(answer) == expected
    answer = await fleet.client.delete(f"/api/sandboxes/{other}/checkpoints/{made['id']}")
    assert code(answer) == (404, "not_found")


async def test_a_checkpoint_that_is_being_stored_says_how_far_it_is(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, may_go_on = ObjectSnapshotStore.put, asyncio.Event()

    async def slow(self: ObjectSnapshotStore, *given: Any, progress: Any) -> int:
        progress(3, 10)
        await may_go_on.wait()
        return await whole(self, *given, progress=progress)

    monkeypatch.setattr(ObjectSnapshotStore, "put", slow)
    sandbox = await fleet.create()
    made = await post(fleet, f"{sandbox}/checkpoints", {"name": "one"})
    assert made.json()["upload"] is None
    async with asyncio.timeout(60):
        while (await listed(fleet, sandbox))[0]["upload"] != {"bytesDone": 3, "bytesTotal": 10}:
            await asyncio.sleep(0.02)
        may_go_on.set()
        while (await listed(fleet, sandbox))[0]["status"] != "ready":
            await asyncio.sleep(0.02)
    assert (await listed(fleet, sandbox))[0]["upload"] is None


async def test_what_is_not_ready_is_waited_for(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandfleet.controlplane.api.checkpoints.RESTORE_READY_WAIT_S", 0.2)
    monkeypatch.setattr("sandfleet.controlplane.api.forks.READY_WAIT_S", 0.2)
    sandbox = await fleet.create()
    fleet.hypervisor.faults.hold("capture")
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(
            post(fleet, f"{sandbox}/checkpoints", {"name": "one"}, headers={"Prefer": "wait=1"})
        )
        await fleet.hypervisor.faults.reached("capture")
        (made,) = await listed(fleet, sandbox)
        assert code(await post(fleet, f"{sandbox}/checkpoints/{made['id']}/restore")) == (
            409,
            "checkpoint_not_ready",
        )
        assert code(await post(fleet, f"from-checkpoint/{made['id']}")) == (409, "checkpoint_not_ready")
    assert asked.result().json()["status"] == "processing"
    fleet.hypervisor.faults.fail("capture", GuestUnresponsive("agent unresponsive: no answer"))
    fleet.hypervisor.faults.release("capture")

    async def failed() -> dict[str, Any] | None:
        (found,) = await listed(fleet, sandbox)
        return found if found["status"] == "failed" else None

    made = await eventually(failed, what="the checkpoint to fail") or {}
    assert made["errorMsg"] == "agent unresponsive: no answer"
    assert code(await post(fleet, f"from-checkpoint/{made['id']}")) == (400, "checkpoint_failed")


async def test_a_fork_may_be_larger_but_not_smaller(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    made = await checkpoint(fleet, sandbox)
    small = (await post(fleet, f"from-checkpoint/{made['id']}", {"memoryMB": 512})).json()
    large = (await post(fleet, f"from-checkpoint/{made['id']}", {"memoryMB": 2048, "diskMB": 30720})).json()
    assert (small["memoryMB"], large["memoryMB"], large["diskMB"]) == (1024, 2048, 30720)
    assert code(await post(fleet, f"from-checkpoint/{made['id']}", {"memoryMB": 5})) == (
        400,
        "memory_out_of_range",
    )


async def test_a_fork_has_the_cpu_limit_of_its_source_unless_it_is_faster(fleet: Fleet) -> None:
    sandbox = await fleet.create(memoryMB=1024)
    limited = await fleet.client.put(
        f"/api/sandboxes/{sandbox}/limits", json={"memoryMB": 1024, "cpuPercent": 50}
    )
    assert limited.status_code == 200, limited.text
    made = await checkpoint(fleet, sandbox)
    same = (await post(fleet, f"from-checkpoint/{made['id']}")).json()
    fast = (await post(fleet, f"from-checkpoint/{made['id']}", {"cpuCount": 2})).json()
    (live,) = (await post(fleet, f"{sandbox}/fork")).json()["sandboxes"]
    has = {
        machine.facts.owner: (machine.facts.order.cpu_count, machine.facts.cpu_percent)
        for machine in await fleet.hypervisor.adopt()
    }
    assert (same["cpuCount"], fast["cpuCount"]) == (1, 2)
    assert has[same["sandboxID"]] == has[live["sandboxID"]] == has[sandbox] == (1, 50)
    assert has[fast["sandboxID"]] == (2, None)
    await hibernate(fleet, sandbox)
    assert (await post(fleet, f"{sandbox}/wake")).status_code == 200
    (woken,) = [one for one in await fleet.hypervisor.adopt() if one.facts.owner == sandbox]
    assert woken.facts.cpu_percent == 50


async def test_a_live_fork_gives_each_its_own(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    await write(fleet, sandbox, "before")
    answer = await post(fleet, f"{sandbox}/fork?count=3", {"metadata": {"n": "x"}})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["parentID"], body["pauseMs"] > 0, len(body["sandboxes"])) == (sandbox, True, 3)
    forks = [one["sandboxID"] for one in body["sandboxes"]]
    assert {one["status"] for one in body["sandboxes"]} == {"running"}
    await write(fleet, forks[0], "mine")
    assert [await read(fleet, one) for one in (sandbox, *forks)] == ["before", "mine", "before", "before"]
    for count in ("0", "101", "x", "-1"):
        assert code(await post(fleet, f"{sandbox}/fork?count={count}")) == (400, "invalid_argument")


async def test_a_live_fork_is_all_or_none_unless_partial(open_fleet: OpenFleet) -> None:
    async with open_fleet(memory_budget_mib=2048, creation_queue_s=1.3) as fleet:
        sandbox = await fleet.create()
        assert code(await post(fleet, f"{sandbox}/fork?count=3")) == (503, "no_capacity")
        running = await fleet.client.get("/api/sandboxes")
        assert [one["sandboxID"] for one in running.json()] == [sandbox]
        await eventually(lambda: len(fleet.hypervisor.machines) == 1, what="the forks to end")
        answer = await post(fleet, f"{sandbox}/fork?count=3&partial=true")
        assert answer.status_code == 201, answer.text
        assert (len(answer.json()["sandboxes"]), [one["code"] for one in answer.json()["failed"]]) == (
            1,
            ["no_capacity"] * 2,
        )


async def test_another_organisation_finds_nothing_of_it(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    made = await checkpoint(fleet, sandbox)
    async with await fleet.other_organisation() as stranger:
        for method, path in (
            ("POST", f"{sandbox}/hibernate"),
            ("POST", f"{sandbox}/wake"),
            ("POST", f"{sandbox}/fork"),
            ("POST", f"{sandbox}/checkpoints"),
            ("GET", f"{sandbox}/checkpoints"),
            ("DELETE", f"{sandbox}/checkpoints/{made['id']}"),
            ("POST", f"{sandbox}/checkpoints/{made['id']}/restore"),
        ):
            answer = await stranger.request(method, f"/api/sandboxes/{path}", json={"name": "x"})
            assert (*code(answer), answer.json()["error"]) == (404, "not_found", "sandbox not found")
        answer = await stranger.post(f"/api/sandboxes/from-checkpoint/{made['id']}")
        assert (*code(answer), answer.json()["error"]) == (404, "not_found", "checkpoint not found")
        foreign = (await stranger.post("/api/sandboxes")).json()["sandboxID"]
        assert (await stranger.post(f"/admin/sandboxes/{foreign}/hibernate")).status_code == 403
        answer = await fleet.client.post(f"/admin/sandboxes/{foreign}/hibernate")
        assert (answer.status_code, answer.json()["status"]) == (200, "hibernated")
        assert (await stranger.get(f"/api/sandboxes/{foreign}")).json()["status"] == "hibernated"
        answer = await fleet.client.post("/admin/sandboxes/sb-unknown/hibernate")
        assert code(answer) == (404, "not_found")
    assert await status(fleet, sandbox) == "running"
    assert len(await listed(fleet, sandbox)) == 1
