"""`up` of a fleet whose server cannot start: what it began it ends, and what ran before it leaves alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sandfleet.local import down
from sandfleet.local.configuration import load_secrets
from sandfleet.local.layout import Layout
from sandfleet.local.lock import is_locked
from sandfleet.local.ports import free_port
from sandfleet.local.state import read_state
from sandfleet.local.up import FleetFailed, Started, UpOrder, bring_up, configure, start

pytestmark = [
    pytest.mark.timeout(300),
    # A supervisor outlives whoever starts it.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]


@pytest.fixture
def broken() -> Iterator[Layout]:
    """A data directory whose secrets no server accepts; it has no worker before it has a server."""
    folder = Path(tempfile.mkdtemp(prefix="sandfleet-up-"))
    layout = Layout(folder)
    configure(layout, UpOrder(api_port=free_port()))
    secrets = msgspec.structs.replace(load_secrets(layout), master_secret="none")
    layout.secrets.write_bytes(msgspec.json.encode(secrets))
    yield layout
    down.stop(layout)
    shutil.rmtree(folder)


def test_what_cannot_come_up_is_not_left_behind(broken: Layout) -> None:
    said: list[str] = []
    with pytest.raises(FleetFailed, match="server does not start: ended with code"):
        bring_up(broken, timeout_s=120, report=said.append)
    assert said[-1] == "ending what did start"
    assert not is_locked(broken)
    state = read_state(broken)
    assert state is not None
    assert not state.is_supervised
    assert {service.name for service in state.services} >= {"postgres", "valkey", "server"}
    assert [service.name for service in state.services if service.is_alive] == []


def test_what_somebody_else_began_runs_on(broken: Layout) -> None:
    assert start(broken) is Started.FRESH
    with pytest.raises(FleetFailed, match="server does not start"):
        bring_up(broken, timeout_s=120, report=lambda _line: None)
    state = read_state(broken)
    assert state is not None
    assert state.is_supervised
    postgres = state.service("postgres")
    assert postgres is not None
    assert postgres.is_alive
