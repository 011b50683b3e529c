"""A version that a file or a parameter names for the first time is rolled out, and no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sandfleet.adapters.machines.version_file import VersionFile
from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.controlplane.loops.version_source import VersionSourceLoop
from sandfleet.controlplane.rollout_settings import RolloutSettings
from sandfleet.model.errors import PoolUnreachable
from sandfleet.planning.placement import PlacementPolicy
from sandfleet.planning.rollout import RolloutPolicy
from sandfleet.testing.builders import NOON, a_worker
from sandfleet.testing.clock import JumpingClock
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.wiring import memory_stores


class Watched:
    """A fleet whose workers run version 1, and the file that says what is wanted."""

    def __init__(self, path: Path) -> None:
        clock = JumpingClock(now=NOON)
        self.path, self.stores = path, memory_stores(MemoryDatabase(clock.now, term=1))
        plane = SimpleNamespace(stores=self.stores, clock=clock)
        self.loop = VersionSourceLoop(cast(ControlPlane, plane), VersionFile(path))

    async def named(self, text: str) -> str:
        self.path.write_text(text)
        return await self.loop.tick()

    async def begun(self) -> list[tuple[str, str]]:
        return [(one.rollout.version, one.actor) for one in await self.stores.rollouts.list()]


@pytest.fixture
async def watched(tmp_path: Path) -> Watched:
    watched = Watched(tmp_path / "version")
    await watched.stores.workers.register(a_worker(worker_version="1"))
    return watched


async def test_a_version_that_is_named_is_begun_once(watched: Watched) -> None:
    assert await watched.loop.tick() == "no version is named"
    assert await watched.named(" \n") == "no version is named"
    assert await watched.named("1\n") == "version 1 is the one that runs"
    assert await watched.named("2\n") == "version 2 is named, and its roll-out begins"
    assert await watched.loop.tick() == "version 2 was asked for before"
    assert await watched.named("3") == "version 3 waits: the roll-out of version 2 is under way"
    assert await watched.begun() == [("2", "source")]
    assert "no version: '../x'" in await watched.named("../x")


async def test_what_was_turned_back_is_not_begun_again_because_it_is_still_named(watched: Watched) -> None:
    await watched.named("2")
    await watched.stores.rollouts.cancel(1, actor="somebody", at=NOON)
    assert await watched.loop.tick() == "version 2 was asked for before, and refused: called off by somebody"
    assert await watched.begun() == [("2", "source")]


async def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(PoolUnreachable, match="cannot be read"):
        await VersionFile(tmp_path).read()
    watched = Watched(tmp_path)
    assert "cannot be read" in await watched.loop.tick()
    assert await watched.begun() == []


def test_the_settings_are_the_planners_policy() -> None:
    """Every field is one, and the defaults are the same."""
    placement = PlacementPolicy(memory_ratio_max=0.5)
    assert RolloutSettings().policy(placement) == RolloutPolicy(placement=placement)
    assert RolloutSettings(source_client_id="mine").policy(placement) == RolloutPolicy(placement=placement)
    for source in (
        "file:///etc/v",
        "ssm://eu-central-1//v",
        "keyvault://fleet/v-1",
        "keyvault://f.vault.azure.cn/v",
    ):
        assert RolloutSettings(source=source).source == source
    refused = (
        "file://relative",
        "http://x/y",
        "ssm://",
        "version",
        "keyvault://fleet",
        "keyvault://f/a/b",
        "keyvault:///v",
    )
    for source in refused:
        with pytest.raises(ValueError, match="source"):
            RolloutSettings(source=source)
