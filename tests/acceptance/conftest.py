"""The fleet that the acceptance tests share: one `sandfleet up`, brought down and removed at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.live_fleet import LiveFleet, start_fleet


@pytest.fixture(scope="session")
def fleet() -> Iterator[LiveFleet]:
    """A running fleet, on ports that were free and a directory of its own."""
    data_dir = Path(tempfile.mkdtemp(prefix="sandfleet-acceptance-", dir="/var/tmp"))
    data_dir.chmod(0o755)
    running = start_fleet(data_dir)
    try:
        yield running
    finally:
        running.down()
        shutil.rmtree(data_dir, ignore_errors=True)
