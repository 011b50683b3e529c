"""Two hundred creates at once on a host that cannot hold them: a queue, then 503, and nothing left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import httpx
import pytest
from tests.acceptance.census import rows, take_census, wait_for_no_leak, worker_memory_mib
from tests.acceptance.live_fleet import LiveFleet

pytestmark = [pytest.mark.timeout(420)]

CREATES = 200
ANSWERED_WITHIN_S = 90
"""The promise is thirty seconds for a machine that is not busy with tests; this bound holds on any."""


async def test_two_hundred_creates_on_a_full_host_wait_and_are_refused_in_time(fleet: LiveFleet) -> None:
    before = await asyncio.to_thread(take_census, fleet)
    size, fitting = await asyncio.to_thread(_large_size, fleet)
    async with fleet.async_client(timeout_s=2 * ANSWERED_WITHIN_S) as http:
        loop = asyncio.get_running_loop()
        began = loop.time()
        creates = [asyncio.ensure_future(_create(http, size)) for _ in range(CREATES)]
        first = await _first_running(creates)
        assert (await http.delete(f"/api/sandboxes/{first}")).status_code == 204
        answers = await asyncio.gather(*creates)
        longest = max(took - began for took, _ in answers)
        made = [a.json()["sandboxID"] for _, a in answers if a.status_code == 201]
        await asyncio.gather(*(http.delete(f"/api/sandboxes/{identity}") for identity in made))
    _check_answers([answer for _, answer in answers], served=fitting + 1)
    assert longest < ANSWERED_WITHIN_S
    await asyncio.to_thread(wait_for_no_leak, before, fleet, timeout_s=120)


async def _create(http: httpx.AsyncClient, memory_mb: int) -> tuple[float, httpx.Response]:
    answer = await http.post("/api/sandboxes", json={"memoryMB": memory_mb, "metadata": {"for": "full host"}})
    return asyncio.get_running_loop().time(), answer


async def _first_running(creates: Sequence[asyncio.Future[tuple[float, httpx.Response]]]) -> str:
    for done in asyncio.as_completed(creates):
        _, answer = await done
        if answer.status_code == 201:
            return str(answer.json()["sandboxID"])
    raise AssertionError("not one create was served")


def _large_size(fleet: LiveFleet) -> tuple[int, int]:
    """Return a memory size in MB, about 40 % of what is free, and how many of it fit."""
    (committed,) = rows(fleet, "SELECT coalesce(sum(memory_mib), 0) FROM reservations")
    free = worker_memory_mib(fleet) - int(committed)
    size = min(int(free * 0.4), 65536) // 128 * 128
    return size, free // size


def _check_answers(answers: list[httpx.Response], *, served: int) -> None:
    counted = Counter(answer.status_code for answer in answers)
    assert set(counted) == {201, 503}, counted
    assert counted[201] == served, "those that fit, and one that waited for the place that became free"
    for answer in answers:
        if answer.status_code == 503:
            assert answer.json()["code"] == "no_capacity"
            assert int(answer.headers["Retry-After"]) >= 5
