"""Work of its own at the end of a replica: a request that comes then is to be asked elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.background import Background
from sandfleet.model.errors import Unavailable


async def test_a_replica_that_ends_begins_nothing_and_says_so() -> None:
    async with TaskGroup() as group:
        background = Background(group)
        waiting = background.start(asyncio.Event().wait(), name="waits")
        await asyncio.sleep(0)
        background.cancel_all()
    assert waiting.cancelled()
    with pytest.raises(Unavailable) as refused:
        background.start(asyncio.Event().wait(), name="late")
    assert refused.value.code == "shutting_down"
