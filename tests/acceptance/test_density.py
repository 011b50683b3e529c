"""Two hundred real sandboxes of one template on one machine, beside as many bare clones.

The same run as the benchmark's row: each is created through the API, runs commands together with all
others, idles, is scaled, runs one more and is destroyed. One that is lost on the way fails it.
"""

from __future__ import annotations

import pytest
from bench.bed import bed
from bench.rows import density
from tests.acceptance.census import take_census, wait_for_no_leak
from tests.acceptance.live_fleet import LiveFleet

COUNT = 200
MEMORY_RATIO_MAX = 1.25
"""The target is 1.1; beyond this something is kept for each sandbox that should not be."""


@pytest.mark.chaos
@pytest.mark.timeout(2400)
async def test_two_hundred_sandboxes_live_on_one_machine_and_leave_nothing() -> None:
    async with bed() as laid:
        fleet = LiveFleet(laid.data_dir, laid.url, laid.api_key)
        before = take_census(fleet)
        rows = {row.what: row for row in await density.measure(laid, count=COUNT)}
        wait_for_no_leak(before, fleet, timeout_s=120)
    (memory,) = [row for what, row in rows.items() if "memory" in what]
    assert memory.ratio < MEMORY_RATIO_MAX, memory
