"""The fleet that the acceptance tests share: one `sandfleet up`, brought down and removed at the end,
or by the next run if this one is killed.

With SANDFLEET_ACCEPTANCE_DIR the fleet of that data directory is used instead, and left as it is: for
the time when one test is being written. For rounds of faults it has to have been started with
SANDFLEET_FAULT_POINTS_DIR=DATA_DIR/orders, and for sizes that follow their use with the `server.toml` below.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.faults import ORDERS
from tests.acceptance.live_fleet import LiveFleet, find_fleet, start_fleet

from sandfleet.local.layout import Layout
from sandfleet.testing.disposable_fleets import disposable_directory

SOON_QUIET = "autoscale_interval_s = 1\nautoscale_shrink_after_s = 5\n"
"""Sizes that follow their use do so at once; no other sandbox has one."""


@pytest.fixture(scope="session")
def fleet() -> Iterator[LiveFleet]:
    """A running fleet, on ports that were free and a directory of its own."""
    if standing := os.environ.get("SANDFLEET_ACCEPTANCE_DIR"):
        yield find_fleet(Path(standing))
        return
    yield from _started("sandfleet-acceptance")


@pytest.fixture(scope="session")
def twin_fleet() -> Iterator[LiveFleet]:
    """Two servers behind HAProxy and two workers; of SANDFLEET_CHAOS_FLEET if that is set."""
    if standing := os.environ.get("SANDFLEET_CHAOS_FLEET"):
        yield find_fleet(Path(standing))
        return
    yield from _started("sandfleet-chaos", "--servers", "2", "--workers", "2")


def _started(kind: str, *options: str) -> Iterator[LiveFleet]:
    with disposable_directory(kind) as data_dir:
        orders = data_dir / ORDERS
        orders.mkdir(mode=0o700)
        Layout(data_dir).server_choices.write_text(SOON_QUIET)
        running = start_fleet(data_dir, *options, environment={"SANDFLEET_FAULT_POINTS_DIR": str(orders)})
        yield running
        running.down()
