"""What several unit tests of a one-machine fleet stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandfleet.local.layout import Layout
from sandfleet.local.settings_files import Stores

STORES = Stores(postgres_url="postgresql://u:p@127.0.0.1:1/d", redis_url="redis://:p@127.0.0.1:2/0")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The data directory of a fleet that was not configured yet."""
    layout = Layout(tmp_path / "fleet")
    layout.make()
    return layout
