"""The stores in memory keep what PostgreSQL keeps: the same checks, see `tests/integration`."""

from __future__ import annotations

import pytest

from sandfleet.adapters.clock import SystemClock
from sandfleet.testing.conformance import (
    drain_store,
    fleet_store,
    move_store,
    operation_store,
    other_stores,
    placement_store,
    rollout_store,
    sandbox_store,
    size_store,
    transition_log,
)
from sandfleet.testing.conformance.checking import Check
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.wiring import memory_stores

CHECKS = (
    *sandbox_store.CHECKS,
    *operation_store.CHECKS,
    *placement_store.CHECKS,
    *other_stores.CHECKS,
    *move_store.CHECKS,
    *drain_store.CHECKS,
    *size_store.CHECKS,
    *fleet_store.CHECKS,
    *rollout_store.CHECKS,
    *transition_log.CHECKS,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_stores_in_memory_conform(check: Check) -> None:
    await check(memory_stores(MemoryDatabase(SystemClock().now)))
