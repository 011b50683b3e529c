"""A new worker process takes over the host of the one before."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tests.integration.worker.harness import DEFAULT, RunningWorker, a_worker, a_worker_with, fake_host, until

from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed
from sandfleet.ports.hypervisor import MachineFacts
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_programs import HeldShell
from sandfleet.worker.adoption import adopt

ID = "sb-one"


async def test_a_second_worker_serves_what_the_first_started_and_its_running_exec() -> None:
    shell = HeldShell()
    async with FakeHypervisor(program=shell) as hypervisor:
        async with a_worker(hypervisor) as first:
            await first.start(ID, epoch=3)
            command = {"cmd": "held"}
            status, _ = await first.run(ID, command, verb="run-async", exec_id="ex-survives", epoch=3)
            assert status == 202
        async with a_worker(hypervisor) as second:
            assert (await second.vm(ID))[1]["epoch"] == 3
            assert (await second.run(ID, {"cmd": "true"}, epoch=2))[1]["code"] == "moved"
            assert (await second.stop(ID, epoch=3, idle_since_s=0.0))[1]["code"] == "busy"
            shell.let_go()
            status, body = await second.run(ID, command, exec_id="ex-survives", epoch=3)
            assert (status, body["stdout"]) == (200, "begun\nended\n")
            assert len(next(iter(hypervisor.machines.values())).guest.runs) == 1
            assert (await second.vm(ID))[1]["in_flight"] == 0


async def test_a_start_that_a_dead_worker_left_half_done_is_finished_by_its_repeat() -> None:
    async with FakeHypervisor() as hypervisor:
        machine = await hypervisor.clone(DEFAULT)
        await machine.assign(ID, epoch=1)
        async with a_worker(hypervisor) as worker:
            assert machine.guest.identities == []
            assert (await worker.start(ID, envs={"A": "1"}))[0] == 200
            assert machine.guest.identities[-1].host_name == ID
            assert machine.guest.identities[-1].envs == {"A": "1"}
            assert (await worker.start(ID))[0] == 200
            assert len(machine.guest.identities) == 1


async def test_a_guest_that_a_dead_worker_did_not_tell_who_it_is_is_told_by_the_repeated_commit() -> None:
    async with FakeHypervisor() as hypervisor:
        machine = await hypervisor.clone(DEFAULT)
        await machine.assign(ID, epoch=2)  # at home, and nobody knows what its guest was told
        async with a_worker(hypervisor) as worker:
            for _ in range(2):
                order = msgspec.json.encode({"sandbox_id": ID, "epoch": 2, "envs": {"A": "1"}})
                async with worker.http.post("/moves/mv-one/commit", data=order) as answer:
                    assert (answer.status, (await answer.json())["state"]) == (200, "running")
            (told,) = machine.guest.identities
            assert (told.host_name, told.envs) == (ID, {"A": "1"})


async def test_a_restart_that_came_to_its_end_is_not_done_again_by_the_next_worker() -> None:
    async with FakeHypervisor() as hypervisor:
        async with a_worker(hypervisor) as first:
            await first.start(ID)
            (machine,) = hypervisor.machines.values()
            assert await restarted(first, "r-1") == 200
            guest = machine.guest
        async with a_worker(hypervisor) as second:
            assert await restarted(second, "r-1") == 200
            assert machine.guest is guest
            assert await restarted(second, "r-2") == 200
            assert machine.guest is not guest


async def restarted(worker: RunningWorker, restart_id: str) -> int:
    order = msgspec.json.encode({"epoch": 1, "restart_id": restart_id})
    async with worker.http.post(f"/vms/{ID}/reboot", data=order) as answer:
        return answer.status


async def test_a_dead_vm_is_reported_until_it_is_stopped() -> None:
    async with FakeHypervisor() as hypervisor:
        machine = await hypervisor.clone(DEFAULT)
        await machine.assign(ID, epoch=2)
        await machine.crash("power cut")
        async with a_worker(hypervisor) as worker:
            status = (await worker.vm(ID))[1]
            assert (status["state"], status["reason"], status["epoch"]) == ("dead", "power cut", 2)
            assert (await worker.stop(ID, epoch=2))[1]["existed"] is True
            assert not hypervisor.machines


async def test_machines_of_nobody_enter_the_pool_with_a_new_identity_or_go() -> None:
    async with FakeHypervisor() as hypervisor:
        good, other_shape, dead, silent = [await hypervisor.clone(DEFAULT) for _ in range(4)]
        other_shape._facts = _with_memory(other_shape.facts, 2048)
        await dead.crash()
        await silent.guest.lose()
        async with a_worker(hypervisor, pool_size=4) as worker:
            assert list(hypervisor.machines.values()) == [good]
            assert len(worker.host.pool) == 1
            assert good.guest.identities[-1].host_name == "sandfleet-warm"


def _with_memory(facts: MachineFacts, memory_mib: int) -> MachineFacts:
    return replace(facts, order=replace(facts.order, memory_mib=memory_mib))


async def test_of_two_machines_of_one_sandbox_the_newer_epoch_stays() -> None:
    async with FakeHypervisor() as hypervisor:
        older, newer = await hypervisor.clone(DEFAULT), await hypervisor.clone(DEFAULT)
        await older.assign(ID, epoch=1)
        await newer.assign(ID, epoch=2)
        async with a_worker(hypervisor) as worker:
            assert (await worker.vm(ID))[1]["epoch"] == 2
            assert list(hypervisor.machines.values()) == [newer]


async def test_a_host_that_cannot_be_read_is_tried_again_and_leftovers_are_swept() -> None:
    async with FakeHypervisor() as hypervisor:
        hypervisor.faults.fail("adopt", HypervisorFailed("directory busy"))
        hypervisor.leftovers = ["sf-old"]
        async with a_worker(hypervisor, is_adopted=False) as worker:
            await adopt(worker.host)
            assert worker.host.is_adopted
            assert hypervisor.leftovers == []


async def test_what_cannot_be_removed_at_adoption_keeps_nobody_from_being_served() -> None:
    async with FakeHypervisor() as hypervisor:
        older, newer, dead = [await hypervisor.clone(DEFAULT) for _ in range(3)]
        await older.assign(ID, epoch=1)
        await newer.assign(ID, epoch=2)
        await dead.crash()
        hypervisor.faults.fail("destroy", OSError("device busy"), times=2)
        hypervisor.faults.fail("sweep", OSError("device busy"))
        async with a_worker(hypervisor) as worker:
            assert worker.host.is_adopted
            assert (await worker.vm(ID))[1]["epoch"] == 2


@pytest.mark.parametrize("step", ["clone", "assign", "assume_identity", "set_limits"])
async def test_a_worker_that_ends_in_the_middle_of_a_start_leaves_a_legal_host(step: str) -> None:
    async with FakeHypervisor() as hypervisor:
        hypervisor.faults.hold(step)
        async with a_worker(hypervisor) as first:
            leaving = first.host.background.start(first.start(ID), name="caller")
            await hypervisor.faults.reached(step)
            leaving.cancel()
        hypervisor.faults.release(step)
        async with a_worker(hypervisor) as second:
            assert (await second.start(ID))[0] == 200
            assert len(hypervisor.machines) == 1


async def test_a_silent_guest_does_not_stop_adoption() -> None:
    async with a_worker_with() as first:
        fake_host(first).faults.fail("list_execs", GuestUnresponsive("agent unresponsive"))
        async with a_worker(fake_host(first)) as second:
            assert (await second.vm(ID))[1]["state"] == "running"


async def test_what_runs_in_a_guest_that_answers_late_counts_as_activity() -> None:
    async with FakeHypervisor() as hypervisor:
        async with a_worker(hypervisor) as first:
            await first.start(ID)
            await first.run(ID, {"cmd": "sleep 30"}, verb="run-async", exec_id="ex-unseen")
        hypervisor.faults.fail("list_execs", GuestUnresponsive("agent unresponsive"))
        async with a_worker(hypervisor) as second:
            resident = second.host.residents.find(ID)
            assert resident is not None
            await until(lambda: resident.executions.find("ex-unseen"))
            await until(lambda: resident.in_flight)
