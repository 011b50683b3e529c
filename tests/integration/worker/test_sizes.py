"""Orders for another size at the worker: copies that come late change nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sandfleet.model.errors import HypervisorFailed
from sandfleet.wire.worker_messages import ResizeVm

from .harness import RunningWorker, a_worker_with, fake_host

ID = "sb-one"


async def resize(worker: RunningWorker, memory_mib: int, *, sequence: int) -> tuple[int, dict[str, Any]]:
    order = ResizeVm(epoch=1, sequence=sequence, memory_mib=memory_mib, cpu_percent=100)
    async with worker.http.post(f"/vms/{ID}/resize", data=msgspec.json.encode(order)) as answer:
        return answer.status, await answer.json()


async def size_of(worker: RunningWorker) -> int:
    return int((await worker.vm(ID))[1]["memory_mib"])


async def test_a_late_copy_of_an_older_order_changes_nothing() -> None:
    async with a_worker_with() as worker:
        assert (await resize(worker, 2048, sequence=3))[0] == 200
        assert (await resize(worker, 2048, sequence=3))[0] == 200
        assert (await resize(worker, 1024, sequence=5))[0] == 200
        status, body = await resize(worker, 2048, sequence=3)
        assert (status, body["code"]) == (409, "stale_version")
        assert await size_of(worker) == 1024
        assert (await resize(worker, 2048, sequence=6))[0] == 200
        assert await size_of(worker) == 2048


@pytest.mark.parametrize("failure", [HypervisorFailed("no"), OSError("broken")])
async def test_an_order_that_was_refused_stays_refused(failure: Exception) -> None:
    async with a_worker_with() as worker:
        fake_host(worker).faults.fail("resize_memory", failure)
        for _ in range(2):
            assert (await resize(worker, 2048, sequence=3))[0] == 500
        assert await size_of(worker) == 1024
        assert (await resize(worker, 2048, sequence=4))[0] == 200


async def test_an_order_that_is_too_early_is_taken_when_it_comes_again() -> None:
    async with a_worker_with() as worker:
        resident = worker.host.residents.find(ID)
        assert resident is not None
        resident.close_to_save(None)
        status, body = await resize(worker, 2048, sequence=3)
        assert (status, body["code"]) == (409, "moved")
        resident.reopen()
        assert (await resize(worker, 2048, sequence=3))[0] == 200


async def test_memory_that_the_host_had_not_is_not_given_to_a_late_copy() -> None:
    async with a_worker_with() as worker:
        assert (await worker.start("sb-two", memory_mib=6144))[0] == 200
        assert (await resize(worker, 4096, sequence=3))[1]["code"] == "no_capacity"
        assert (await worker.stop("sb-two"))[0] == 200
        assert (await resize(worker, 4096, sequence=3))[1]["code"] == "no_capacity"
        assert (await resize(worker, 4096, sequence=4))[0] == 200
