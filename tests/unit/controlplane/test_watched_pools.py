"""Every call to a pool has an end, and whether a pool answers is told and shown."""

from __future__ import annotations

import asyncio
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandfleet.controlplane.api.health import POOL_ASKED_WITHIN, exposition
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.metrics import Metrics
from sandfleet.controlplane.watched_pools import WatchedPool
from sandfleet.model.errors import MachineRefused, PoolUnreachable, StaleTerm
from sandfleet.model.launch import LaunchFailure, LaunchId
from sandfleet.model.machine import MachineOrder, MachinePart, PartKind
from sandfleet.testing.builders import NOON
from sandfleet.testing.clock import JumpingClock
from sandfleet.testing.conformance import machine_pool
from sandfleet.testing.conformance.machine_pool import Check, Subject
from sandfleet.testing.fake_machine_pool import FakeAccount, FakeMachinePool
from sandfleet.testing.memory.database import MemoryDatabase
from sandfleet.testing.memory.wiring import memory_stores

ORDER = MachineOrder(LaunchId("launch-1"), "small", "v1")


class Heard(Metrics):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str | None] = []

    def pool_asked(self, pool: str, *, silence: str | None, at: datetime) -> None:
        super().pool_asked(pool, silence=silence, at=at)
        self.heard.append(silence)


class Watching:
    """A pool that may hang, and who hears of it."""

    def __init__(self, *, call_s: float = 60.0) -> None:
        self.clock, self.account, self.heard = JumpingClock(now=NOON), FakeAccount(), Heard()
        self.pool = FakeMachinePool(self.clock, self.account)
        self.watched = WatchedPool(self.pool, self.heard, self.clock, call_s=call_s)

    def hang(self) -> None:
        async def never(*args: Any, **more: Any) -> Any:
            await asyncio.Event().wait()

        for name in ("launch", "list", "terminate", "parts", "remove"):
            setattr(self.pool, name, never)

    async def shown(self) -> list[str]:
        plane = SimpleNamespace(stores=memory_stores(MemoryDatabase(self.clock.now)), clock=self.clock)
        plane.settings = SimpleNamespace(region="local")
        text = await exposition(cast(Edge, SimpleNamespace(plane=plane, metrics=self.heard)))
        return [line for line in text.decode().splitlines() if line.startswith("sandfleet_pool_answers{")]


@pytest.mark.parametrize("check", machine_pool.CHECKS, ids=lambda check: check.__name__)
async def test_a_watched_pool_is_the_pool(check: Check) -> None:
    watching = Watching()
    clock, heard = watching.clock, watching.heard
    stranger = FakeMachinePool(clock, watching.account, fleet="another")
    await check(
        Subject(
            watching.watched,
            again=lambda: WatchedPool(FakeMachinePool(clock, watching.account), heard, clock),
            stranger=stranger,
            pass_time=lambda: clock.advance(5),
        )
    )


async def test_a_pool_that_hangs_does_not_answer_whatever_it_is_asked() -> None:
    watching = Watching(call_s=0.001)
    watching.hang()
    pool = watching.watched
    part = MachinePart(PartKind.DISK, "p-1", None)
    calls = (pool.launch(ORDER, term=1), pool.list(), pool.terminate("m", term=1), pool.parts())
    for call in (*calls, pool.remove(part, term=1)):
        with pytest.raises(PoolUnreachable, match="fake has not answered within 0 s"):
            await call
    assert len(watching.heard.heard) == 5
    assert set(watching.heard.heard) == {"fake has not answered within 0 s"}


async def test_a_refusal_is_an_answer_and_an_old_term_says_nothing_of_the_pool() -> None:
    watching = Watching()
    watching.pool.refusals.append(LaunchFailure.QUOTA)
    with pytest.raises(MachineRefused):
        await watching.watched.launch(ORDER, term=2)
    with pytest.raises(StaleTerm):
        await watching.watched.launch(ORDER, term=1)
    watching.pool.is_unreachable = True
    with pytest.raises(PoolUnreachable):
        await watching.watched.list()
    assert watching.heard.heard == [None, "the pool does not answer"]


async def test_the_metrics_show_who_asks_whether_the_pool_answers() -> None:
    watching = Watching()
    assert await watching.shown() == []
    await watching.watched.list()
    assert await watching.shown() == ['sandfleet_pool_answers{pool="fake"} 1.0']
    watching.pool.is_unreachable = True
    with pytest.raises(PoolUnreachable):
        await watching.watched.list()
    assert await watching.shown() == ['sandfleet_pool_answers{pool="fake"} 0.0']
    await watching.clock.advance(POOL_ASKED_WITHIN.total_seconds())
    assert await watching.shown() == [], "who leads no more knows nothing of it"
    calls = watching.heard.pool_calls
    assert [calls.labels("fake", outcome)._value.get() for outcome in ("answered", "silent")] == [1, 1]
