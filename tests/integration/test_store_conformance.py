"""PostgreSQL keeps what every store keeps: the same checks as on the stores in memory."""

from __future__ import annotations

import pytest

from sandfleet.adapters.postgres.wiring import PostgresStores
from sandfleet.controlplane.wiring import stores_of
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
async def test_postgresql_conforms(stores: PostgresStores, check: Check) -> None:
    await check(stores_of(stores))
