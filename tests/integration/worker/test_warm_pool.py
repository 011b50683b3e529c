"""The warm pool around a fake host."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.integration.worker.harness import RunningWorker, a_worker, small_limits, until

from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed
from sandfleet.testing.fake_hypervisor import FakeHypervisor
from sandfleet.worker.operations.fill_pool import add_one_if_lacking, keep_filled, trim


async def _fill(worker: RunningWorker) -> None:
    while await add_one_if_lacking(worker.host):
        pass


async def test_a_create_of_the_pools_shape_takes_a_ready_machine() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=2) as worker:
        await _fill(worker)
        assert (len(worker.host.pool), hypervisor.clones) == (2, 2)
        assert (await worker.start("sb-one", network_enabled=False))[0] == 200
        assert (await worker.start("sb-big", memory_mib=2048))[0] == 200
        assert (len(worker.host.pool), hypervisor.clones) == (1, 3)
        warm = hypervisor.machines["m-0001"]
        assert [identity.host_name for identity in warm.guest.identities] == ["sandfleet-warm", "sb-one"]
        seeds = [identity.seed for identity in warm.guest.identities]
        assert seeds[0] != seeds[1]
        assert not warm.is_network_enabled


async def test_the_pool_keeps_within_the_memory_that_nobody_was_promised() -> None:
    async with (
        FakeHypervisor() as hypervisor,
        a_worker(hypervisor, pool_size=4, limits=small_limits(memory_budget_mib=3072)) as worker,
    ):
        await _fill(worker)
        assert len(worker.host.pool) == 3
        await worker.start("sb-big", memory_mib=2048)
        await trim(worker.host)
        assert len(worker.host.pool) == 1
        assert len(hypervisor.machines) == 2


async def test_machines_of_an_old_template_version_are_replaced() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        await _fill(worker)
        hypervisor.templates = [replace(hypervisor.templates[0], version="version-2")]
        worker.host.templates = {info.name: info for info in await hypervisor.prepare()}
        await trim(worker.host)
        assert len(hypervisor.machines) == 0
        await _fill(worker)
        assert next(iter(hypervisor.machines.values())).facts.template_version == "version-2"


async def test_a_ready_machine_that_fails_is_replaced_by_a_clone() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        await _fill(worker)
        hypervisor.faults.fail("assume_identity", GuestUnresponsive("agent unresponsive"))
        assert (await worker.start("sb-one"))[0] == 200
        assert list(hypervisor.machines) == ["m-0002"]


async def test_a_ready_machine_that_dies_is_removed() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        await _fill(worker)
        await hypervisor.machines["m-0001"].crash()
        await until(lambda: not hypervisor.machines)
        assert len(worker.host.pool) == 0


async def test_filling_waits_for_starts_and_gives_way_to_a_cordon() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        hypervisor.faults.hold("clone")
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(worker.start("sb-one"))
            await hypervisor.faults.reached("clone")
            assert not await add_one_if_lacking(worker.host)
            hypervisor.faults.release("clone")
        assert starting.result()[0] == 200
        worker.host.is_cordoned = True
        assert not await add_one_if_lacking(worker.host)


async def test_the_loop_refills_after_failures_and_after_claims() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        hypervisor.faults.fail("set_limits", HypervisorFailed("not now"))
        filling = worker.host.background.start(keep_filled(worker.host), name="pool")
        await until(lambda: len(worker.host.pool))
        await worker.start("sb-one")
        await until(lambda: len(worker.host.pool))
        assert len(hypervisor.machines) == 2
        filling.cancel()


async def test_a_start_takes_the_machine_that_is_just_being_made() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        hypervisor.faults.hold("set_limits")
        filling = worker.host.background.start(add_one_if_lacking(worker.host), name="fill")
        await hypervisor.faults.reached("set_limits")
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(worker.start("sb-one"))
            await until(lambda: worker.host.residents.starting)
            hypervisor.faults.release("set_limits")
        assert starting.result()[0] == 200
        assert hypervisor.clones == 1
        await filling.settled()


async def test_a_start_that_waits_for_one_that_fails_makes_its_own() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        hypervisor.faults.hold("set_limits")
        hypervisor.faults.fail("set_limits", HypervisorFailed("not now"))
        filling = worker.host.background.start(add_one_if_lacking(worker.host), name="fill")
        await hypervisor.faults.reached("set_limits")
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(worker.start("sb-one"))
            await until(lambda: worker.host.residents.starting)
            hypervisor.faults.release("set_limits")
        assert starting.result()[0] == 200
        assert list(hypervisor.machines) == ["m-0002"]
        await filling.settled()


async def test_a_kill_of_a_start_that_waits_keeps_the_machine_for_the_next() -> None:
    async with FakeHypervisor() as hypervisor, a_worker(hypervisor, pool_size=1) as worker:
        hypervisor.faults.hold("set_limits")
        filling = worker.host.background.start(add_one_if_lacking(worker.host), name="fill")
        await hypervisor.faults.reached("set_limits")
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(worker.start("sb-one"))
            await until(lambda: worker.host.residents.starting)
            assert (await worker.stop("sb-one"))[0] == 200
            hypervisor.faults.release("set_limits")
        assert starting.result()[1]["code"] == "moved"
        await filling.settled()
        assert len(worker.host.pool) == 1
