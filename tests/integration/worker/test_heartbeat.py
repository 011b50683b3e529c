"""Heartbeats against a control plane on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from tests.integration.worker.fake_control_plane import JOIN_TOKEN, FakeControlPlane, a_control_plane
from tests.integration.worker.harness import (
    WORKER_ID,
    ControlPlaneKey,
    RunningWorker,
    a_worker,
    a_worker_with,
    fake_host,
    until,
)

from sandfleet.ports.guest import ExecStatus
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_mover import FakeMover, Wires
from sandfleet.wire.move_messages import ReceiveMove
from sandfleet.wire.worker_messages import HeartbeatAnswer
from sandfleet.worker.heartbeat import HeartbeatSender, WorkerFacts
from sandfleet.worker.operations.receive_move import receive_move

ID = "sb-one"


@asynccontextmanager
async def a_sender(worker: RunningWorker, plane: FakeControlPlane) -> AsyncIterator[HeartbeatSender]:
    facts = WorkerFacts(
        worker_id=WORKER_ID,
        machine_id="machine-1",
        region="local",
        cpu_model="a cpu",
        http_url=worker.url,
        total_memory_mib=8192,
        total_cpu=4,
        total_disk_mib=102400,
        data_dir=str(Path.cwd()),
        control_url=plane.url,
        join_token=JOIN_TOKEN,
        interval_s=0.1,
    )
    async with aiohttp.ClientSession() as session:
        yield HeartbeatSender(worker.host, facts, worker.tokens, session=session)


async def test_a_beat_says_what_the_host_holds_and_learns_from_the_answer() -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        plane.answer = HeartbeatAnswer(term=7, public_keys=worker.key.jwks, cordoned=True)
        assert await sender.beat()
        assert await sender.beat()
        first, second = plane.beats
        assert (second.sequence, second.instance_id) == (first.sequence + 1, first.instance_id)
        assert [(vm.sandbox_id, vm.epoch, vm.state) for vm in first.vms or []] == [(ID, 1, "running")]
        assert (first.vms or [])[0].memory_used_mib == 46
        assert first.templates == {"base": "version-1"}
        assert (worker.tokens.term, worker.host.is_cordoned) == (7, True)
        assert (await worker.start("sb-two", term=6))[1]["code"] == "stale_term"


async def test_a_guest_is_asked_what_runs_only_after_it_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        (machine,) = fake_host(worker).machines.values()
        list_execs, asked = machine.guest.list_execs, 0

        async def counted() -> Sequence[ExecStatus]:
            nonlocal asked
            asked += 1
            return await list_execs()

        monkeypatch.setattr(machine.guest, "list_execs", counted)
        assert await sender.beat()
        assert asked == 0
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 200
        resident = worker.host.residents.find(ID)
        assert resident is not None
        await until(lambda: not resident.in_flight)
        for _ in range(2):
            assert await sender.beat()
            assert asked == 1


async def test_before_adoption_the_list_is_unknown_not_empty() -> None:
    async with (
        FakeHypervisor() as hypervisor,
        a_worker(hypervisor, is_adopted=False) as worker,
        a_control_plane() as plane,
        a_sender(worker, plane) as sender,
    ):
        await sender.beat()
        assert plane.beats[0].vms is None
        assert (await worker.stop(ID))[0] == 503
        assert (await worker.start(ID))[0] == 503
        async with worker.http.get("/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (503, "starting")


async def test_a_change_is_told_at_once() -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        plane.answer = HeartbeatAnswer(term=1, public_keys={}, heartbeat_interval_s=60.0)
        beating = worker.host.background.start(sender.run(), name="heartbeat")
        await plane.heard(1)
        await next(iter(fake_host(worker).machines.values())).crash("it burned")
        while not any(vm.state == "dead" for vm in plane.beats[-1].vms or []):
            await plane.heard(len(plane.beats) + 1)
        assert (plane.beats[-1].vms or [])[0].reason == "it burned"
        beating.cancel()


async def test_many_changes_are_told_without_measuring_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        plane.answer = HeartbeatAnswer(term=1, public_keys={}, heartbeat_interval_s=60.0)
        (machine,) = fake_host(worker).machines.values()
        measure, measured = machine.memory_used_mib, 0

        async def counted() -> int:
            nonlocal measured
            measured += 1
            return await measure()

        monkeypatch.setattr(machine, "memory_used_mib", counted)
        beating = worker.host.background.start(sender.run(), name="heartbeat")
        for beats in range(1, 4):
            await plane.heard(beats)
            worker.host.changed.set()
        await plane.heard(4)
        beating.cancel()
        assert measured == 1


async def test_an_absent_control_plane_harms_nothing_and_is_tried_again() -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        plane.answer = None
        beating = worker.host.background.start(sender.run(), name="heartbeat")
        await plane.heard(2)
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 200
        plane.answer = HeartbeatAnswer(term=3, public_keys={})
        await plane.heard(len(plane.beats) + 1)
        while worker.tokens.term != 3:
            await worker.vm(ID)
        beating.cancel()


async def test_a_quarantined_vm_ends_when_it_has_been_named_twice() -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        plane.answer = HeartbeatAnswer(term=1, public_keys={}, quarantined=[ID, "sb-unknown"])
        await sender.beat()
        assert (await worker.vm(ID))[1]["state"] == "running"
        await sender.beat()
        while (await worker.vm(ID))[0] != 404:
            pass
        assert not fake_host(worker).machines


async def test_a_place_that_a_late_order_made_for_a_move_that_is_over_goes() -> None:
    """The move was given up before this process began; nothing but the repair would ever remove it."""
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        mover = worker.host.mover = FakeMover(fake_host(worker), Wires())
        manifest = await mover.describe(worker.host.residents.serving(ID, epoch=1).glance())
        order = ReceiveMove(sandbox_id="sb-late", source_worker="wk-other", epoch=2, manifest=manifest)
        await receive_move(worker.host, "mv-over", order)
        plane.answer = HeartbeatAnswer(term=1, public_keys={}, quarantined=["sb-late"])
        await sender.beat()
        assert (await worker.vm("sb-late"))[1]["state"] == "arriving"
        await sender.beat()
        await until(lambda: worker.host.residents.find("sb-late") is None)
        assert [machine.facts.owner for machine in fake_host(worker).machines.values()] == [ID]
        assert (await worker.start("sb-late", epoch=2))[0] == 200  # it never was here under this epoch


async def test_a_worker_that_was_forgotten_ends_what_is_over_and_nothing_else() -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        assert (await worker.start("sb-two", epoch=4))[0] == 200
        over = {ID: 1, "sb-two": 3, "sb-past": 7}
        plane.answer = HeartbeatAnswer(term=1, public_keys={}, cordoned=True, gone=True, over=over)
        await sender.beat()
        while (await worker.vm(ID))[0] != 404:
            pass
        assert (await worker.vm("sb-two"))[1]["state"] == "running"
        assert [machine.facts.owner for machine in fake_host(worker).machines.values()] == ["sb-two"]
        for late in ((ID, 1), ("sb-past", 7)):
            assert (await worker.start(late[0], epoch=late[1]))[1]["code"] == "moved"
        async with worker.http.get("/health") as answer:
            assert (await answer.json())["trouble"] == "the fleet has forgotten this worker"
        plane.answer = HeartbeatAnswer(term=1, public_keys={}, cordoned=True, gone=True, over={"sb-two": 4})
        await sender.beat()
        while (await worker.vm("sb-two"))[0] != 404:
            pass
        assert not fake_host(worker).machines


async def test_new_keys_replace_old_ones_and_survive_a_restart(tmp_path: Path) -> None:
    async with a_worker_with() as worker, a_control_plane() as plane, a_sender(worker, plane) as sender:
        other = ControlPlaneKey()
        plane.answer = HeartbeatAnswer(term=1, public_keys=other.jwks)
        await sender.beat()
        assert (await worker.vm(ID))[0] == 401
        headers = {"Authorization": f"Bearer {other.token()}"}
        async with worker.http.get(f"/vms/{ID}", headers=headers) as answer:
            assert msgspec.json.decode(await answer.read())["state"] == "running"
