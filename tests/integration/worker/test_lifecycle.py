"""Start, stop and status over real HTTP: idempotent, fenced by epoch, and kill wins."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.worker.harness import a_worker, a_worker_with, fake_host, small_limits

from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.testing.fake_programs import HeldShell

ID = "sb-one"


async def test_a_started_vm_has_its_own_identity_sizes_and_environment() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor) as worker:
        status, body = await worker.start(ID, envs={"A": "1"}, disk_mib=40960, network_enabled=False)
        assert (status, body["state"], body["epoch"]) == (200, "running", 1)
        assert body["template_version"] == "version-1"
        (machine,) = hypervisor.machines.values()
        assert (machine.facts.owner, machine.facts.epoch) == (ID, 1)
        identity = machine.guest.identities[-1]
        assert (identity.host_name, identity.envs, len(identity.seed)) == (ID, {"A": "1"}, 64)
        assert machine.guest.limits["cpu_percent"] == 100
        assert machine.guest.is_disk_grown
        assert not machine.is_network_enabled


async def test_the_same_epoch_twice_is_one_start() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor) as worker:
        hypervisor.faults.hold("assume_identity")
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(worker.start(ID)) for _ in range(5)]
            await hypervisor.faults.reached("assume_identity")
            assert (await worker.vm(ID))[1]["state"] == "starting"
            hypervisor.faults.release("assume_identity")
        assert [answer.result()[0] for answer in answers] == [200] * 5
        assert (await worker.start(ID))[0] == 200
        assert hypervisor.clones == 1


async def test_an_older_epoch_has_moved_on_every_route() -> None:
    async with a_worker_with() as worker:
        await worker.stop(ID)
        assert (await worker.start(ID, epoch=3))[0] == 200
        for answer in (
            await worker.start(ID, epoch=2),
            await worker.stop(ID, epoch=2),
            await worker.run(ID, {"cmd": "true"}, epoch=2),
            await worker.run("sb-elsewhere", {"cmd": "true"}),
        ):
            assert (answer[0], answer[1]["code"]) == (409, "moved")
        assert (await worker.run(ID, {"cmd": "true"}, epoch=3))[0] == 200


async def test_a_newer_epoch_replaces_what_an_older_owner_left() -> None:
    async with a_worker_with() as worker:
        assert (await worker.start(ID, epoch=2))[1]["epoch"] == 2
        (machine,) = fake_host(worker).machines.values()
        assert machine.facts.epoch == 2


async def test_a_stopped_epoch_never_starts_again() -> None:
    async with a_worker_with() as worker:
        assert (await worker.stop(ID))[1] == {"sandbox_id": ID, "existed": True}
        assert (await worker.start(ID))[1]["code"] == "moved"
        assert (await worker.stop("sb-late", epoch=4))[1]["existed"] is False
        assert (await worker.start("sb-late", epoch=4))[1]["code"] == "moved"
        assert not fake_host(worker).machines


@pytest.mark.parametrize("step", ["clone", "assign", "assume_identity", "set_limits"])
async def test_kill_wins_over_a_running_start_at_every_step(step: str) -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor) as worker:
        hypervisor.faults.hold(step)
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(worker.start(ID))
            await hypervisor.faults.reached(step)
            assert (await worker.stop(ID))[0] == 200
        assert starting.result()[1]["code"] == "moved"
        assert not hypervisor.machines
        assert (await worker.vm(ID))[0] == 404


@pytest.mark.parametrize("step", ["clone", "assign", "assume_identity", "set_limits"])
async def test_a_start_that_fails_leaves_nothing_and_may_be_repeated(step: str) -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor) as worker:
        hypervisor.faults.fail(step, HypervisorFailed("the host said no"))
        status, body = await worker.start(ID)
        assert (status, body["error"]) == (500, "the host said no")
        assert not hypervisor.machines
        assert worker.host.residents.committed_mib == 0
        assert (await worker.start(ID))[0] == 200


async def test_a_host_promises_no_more_memory_than_it_has() -> None:
    async with (
        FakeHypervisor() as hypervisor,
        a_worker(hypervisor, limits=small_limits(memory_budget_mib=2048)) as worker,
    ):
        hypervisor.faults.hold("clone")
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(worker.start(f"sb-{number}")) for number in range(3)]
            await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            hypervisor.faults.release("clone")
        assert sorted(answer.result()[0] for answer in answers) == [200, 200, 503]


async def test_an_idle_stop_is_refused_while_work_is_in_flight_or_was_just_now() -> None:
    shell = HeldShell()
    async with FakeHypervisor(program=shell) as hypervisor, a_worker(hypervisor) as worker:
        await worker.start(ID)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run(ID, {"cmd": "held"}))
            await fake_host(worker).faults.reached("start_exec")
            status, body = await worker.stop(ID, idle_since_s=0.0)
            assert (status, body["code"]) == (409, "busy")
            shell.let_go()
        assert running.result()[0] == 200
        assert (await worker.stop(ID, idle_since_s=60.0))[1]["code"] == "busy"
        assert (await worker.vm(ID))[1]["in_flight"] == 0
        assert (await worker.stop(ID, idle_since_s=0.0))[0] == 200


async def test_a_running_async_exec_counts_as_in_flight() -> None:
    async with a_worker_with() as worker:
        assert (await worker.run(ID, {"cmd": "sleep 30"}, verb="run-async"))[0] == 202
        status = (await worker.vm(ID))[1]
        assert (status["in_flight"], status["idle_s"]) == (1, 0.0)
        assert (await worker.stop(ID, idle_since_s=0.0))[1]["code"] == "busy"


async def test_a_kill_ends_what_is_in_flight_with_gone() -> None:
    async with a_worker_with() as worker:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run(ID, {"cmd": "sleep 30"}))
            await fake_host(worker).faults.reached("start_exec")
            assert (await worker.stop(ID))[0] == 200
        assert running.result()[0] == 410
        assert running.result()[1]["error"] == f"sandbox {ID} has been stopped"


async def test_two_stops_destroy_once_and_both_are_proof() -> None:
    async with a_worker_with() as worker:
        fake_host(worker).faults.hold("destroy")
        async with asyncio.TaskGroup() as group:
            stops = [group.create_task(worker.stop(ID)) for _ in range(2)]
            await fake_host(worker).faults.reached("destroy")
            assert (await worker.vm(ID))[1]["state"] == "stopping"
            fake_host(worker).faults.release("destroy")
        assert [stop.result()[0] for stop in stops] == [200, 200]


async def test_a_stop_that_the_host_refuses_is_no_proof_and_is_tried_again() -> None:
    async with a_worker_with() as worker:
        fake_host(worker).faults.fail("destroy", HypervisorFailed("busy device"))
        assert (await worker.stop(ID))[0] == 500
        assert (await worker.vm(ID))[1]["state"] == "stopping"
        assert (await worker.run(ID, {"cmd": "true"}))[1]["code"] == "moved"
        assert (await worker.stop(ID))[0] == 200
        assert (await worker.vm(ID))[0] == 404


async def test_a_crash_is_reported_until_it_is_stopped() -> None:
    async with a_worker_with() as worker:
        (machine,) = fake_host(worker).machines.values()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(worker.run(ID, {"cmd": "sleep 30"}))
            await fake_host(worker).faults.reached("start_exec")
            await machine.crash("QEMU ended by signal 11")
        assert running.result()[0] == 410
        status = (await worker.vm(ID))[1]
        assert (status["state"], status["reason"]) == ("dead", "QEMU ended by signal 11")
        assert (await worker.run(ID, {"cmd": "true"}))[0] == 410
        assert (await worker.start(ID))[0] == 500
        assert (await worker.stop(ID, idle_since_s=60.0))[0] == 200
        assert not fake_host(worker).machines


async def test_a_silent_guest_is_not_a_dead_vm() -> None:
    async with a_worker_with() as worker:
        fake_host(worker).faults.fail("start_exec", GuestUnresponsive("agent unresponsive: no answer"))
        status, body = await worker.run(ID, {"cmd": "true"})
        assert (status, body["code"]) == (504, "agent_unresponsive")
        assert (await worker.vm(ID))[1]["state"] == "running"


async def test_a_leaving_client_does_not_interrupt_a_start() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor) as worker:
        hypervisor.faults.hold("clone")
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(worker.start(ID))
            await hypervisor.faults.reached("clone")
            leaving.cancel()
        hypervisor.faults.release("clone")
        assert (await worker.start(ID))[1]["state"] == "running"
        assert hypervisor.clones == 1


async def test_unknown_templates_and_bad_orders_are_refused() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor) as worker:
        assert (await worker.start(ID, template="windows"))[1]["code"] == "unknown_template"
        async with worker.http.put(f"/vms/{ID}", data=b'{"epoch":"one"}') as answer:
            assert (answer.status, (await answer.json())["code"]) == (400, "bad_request")
        async with worker.http.get("/nowhere") as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "not_found")
        async with worker.http.post("/vms") as answer:
            assert (answer.status, (await answer.json())["code"]) == (405, "method_not_allowed")
