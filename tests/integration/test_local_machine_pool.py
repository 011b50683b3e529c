"""The local pool with a real supervisor and real processes: also through crashes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandfleet.adapters.machines import local_orders
from sandfleet.adapters.machines.local import KEPT, LocalMachinePool
from sandfleet.adapters.machines.local_orders import LocalMachinesDirectory
from sandfleet.local import down, processes
from sandfleet.local.launched_machines import slots_lent
from sandfleet.local.layout import Layout
from sandfleet.local.state import read_state
from sandfleet.model.errors import MachineRefused, PoolUnreachable
from sandfleet.model.launch import LaunchFailure, LaunchId, MachineSize
from sandfleet.model.machine import Machine, MachineOrder, MachineState
from sandfleet.testing.builders import resources
from sandfleet.testing.clock import JumpingClock
from sandfleet.testing.conformance import machine_pool
from sandfleet.testing.conformance.machine_pool import Check, Subject

pytestmark = pytest.mark.timeout(300)
PROGRAM = Path(__file__).with_name("launched_programs.py")
SMALL = MachineSize("local", "small", resources(1024, cpu_count=2, disk_mib=20480), boot_s=5.0)
HUGE = MachineSize("local", "huge", resources(4096))
WITHIN_S = 90.0


@dataclass
class Place:
    """One data directory, with its supervisor when there is one."""

    layout: Layout
    clock: JumpingClock = field(default_factory=lambda: JumpingClock(now=datetime(2030, 1, 1, tzinfo=UTC)))

    def pool(self) -> LocalMachinePool:
        """The pool as one server has it; there is a version of the name that is ordered."""
        version = self.layout.machines / "versions" / "v1.toml"
        version.parent.mkdir(parents=True, exist_ok=True)
        version.touch()
        return LocalMachinePool(
            self.layout.machines, sizes=(SMALL, HUGE), machines_max=3, memory_max_mib=5000, clock=self.clock
        )

    @contextmanager
    def supervised(self) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, str(PROGRAM), str(self.layout.data_dir)])
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def pid(self, launch_id: str) -> int:
        """The process that a machine is."""
        state = read_state(self.layout)
        service = state.service(f"wk-{launch_id}") if state else None
        assert service is not None
        assert service.process is not None
        return service.process.pid


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="sandfleet-machines-"))
    place = Place(Layout(folder))
    yield place
    down.stop(place.layout)
    shutil.rmtree(folder)


def an_order(number: int, size: MachineSize = SMALL) -> MachineOrder:
    return MachineOrder(LaunchId(f"launch-{number}"), size.name, "v1")


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await is_so():
            await asyncio.sleep(0.05)


async def until_up(pool: LocalMachinePool, count: int) -> list[Machine]:
    async def are_up() -> bool:
        machines = await pool.list()
        return len(machines) == count and all(one.state is MachineState.RUNNING for one in machines)

    await until(are_up)
    return list(await pool.list())


async def until_gone(pool: LocalMachinePool, machine_id: str) -> None:
    async def is_gone() -> bool:
        return await pool.terminate(machine_id, term=1)

    await until(is_gone)


@pytest.mark.parametrize("check", machine_pool.CHECKS, ids=lambda check: check.__name__)
async def test_the_local_pool_conforms(place: Place, check: Check, tmp_path: Path) -> None:
    pool = place.pool()
    stranger = Place(Layout(tmp_path))

    async def pass_time() -> None:
        await asyncio.sleep(0.1)

    with place.supervised():
        await check(Subject(pool, again=place.pool, stranger=stranger.pool(), pass_time=pass_time))


async def test_what_is_asked_without_a_supervisor_is_there_when_one_comes(place: Place) -> None:
    """And a place is only given once: three slots, three ports."""
    pool = place.pool()
    for number in range(3):
        assert (await pool.launch(an_order(number), term=1)).state is MachineState.STARTING
    with place.supervised():
        machines = await until_up(pool, 3)
        lines = [
            (place.layout.worker_data(f"wk-{one.id}") / "settings").read_text().split() for one in machines
        ]
    assert {line[0] for line in lines} == {"5", "6", "7"}
    assert {line[2] for line in lines} == {"1024"}
    assert slots_lent(place.layout.machines) == {5, 6, 7}


async def test_more_than_there_is_room_for_is_refused_by_its_name(place: Place) -> None:
    pool = place.pool()
    await pool.launch(an_order(1, HUGE), term=1)
    with pytest.raises(MachineRefused, match="4096 of 5000 MiB are taken") as stockout:
        await pool.launch(an_order(2), term=1)
    assert stockout.value.failure is LaunchFailure.STOCKOUT
    other = LocalMachinePool(
        place.layout.machines, sizes=(SMALL,), machines_max=1, memory_max_mib=9000, clock=place.clock
    )
    with pytest.raises(MachineRefused, match="1 machines, 1 at most") as quota:
        await other.launch(an_order(2), term=1)
    assert quota.value.failure is LaunchFailure.QUOTA
    assert [one.id for one in await pool.list()] == ["launch-1"]


async def test_the_name_of_a_launch_never_leaves_the_directory(place: Place) -> None:
    for name in ("../launch", "/launch", "", "Launch", "a" * 61):
        with pytest.raises(MachineRefused):
            await place.pool().launch(MachineOrder(LaunchId(name), "small", "v1"), term=1)
    assert await place.pool().list() == []


async def test_a_machine_whose_process_dies_is_started_again(place: Place) -> None:
    pool = place.pool()
    await pool.launch(an_order(1), term=1)
    with place.supervised():
        await until_up(pool, 1)
        first = place.pid("launch-1")
        os.kill(first, signal.SIGKILL)

        async def is_back() -> bool:
            state = read_state(place.layout)
            service = state.service("wk-launch-1") if state else None
            return service is not None and service.is_alive and place.pid("launch-1") != first

        await until(is_back)


async def test_the_next_supervisor_adopts_machines_and_ends_those_given_up_meanwhile(place: Place) -> None:
    pool = place.pool()
    for number in (1, 2):
        await pool.launch(an_order(number), term=1)
    with place.supervised() as supervisor:
        await until_up(pool, 2)
        staying, going = place.pid("launch-1"), place.pid("launch-2")
        supervisor.kill()
        supervisor.wait(60)
    assert not await pool.terminate("launch-2", term=1)
    with place.supervised():
        await until_gone(pool, "launch-2")
        assert place.pid("launch-1") == staying
        assert [one.id for one in await pool.list()] == ["launch-1"]
        assert processes.identify(going) is None
    assert not place.layout.worker_data("wk-launch-2").exists()
    assert slots_lent(place.layout.machines) == {5}


async def test_what_cannot_be_cleared_away_is_not_said_to_be_gone(place: Place) -> None:
    """And it is tried again."""
    pool = place.pool()
    await pool.launch(an_order(1), term=1)
    fails = place.layout.data_dir / "wk-launch-1.cannot-be-cleared"
    with place.supervised():
        await until_up(pool, 1)
        fails.touch()
        await until_gone(pool, "launch-1")
    assert not fails.exists()
    assert not place.layout.worker_data("wk-launch-1").exists()


async def test_a_machine_that_has_long_been_gone_is_forgotten(place: Place) -> None:
    pool = place.pool()
    await pool.launch(an_order(1), term=1)
    with place.supervised():
        await until_gone(pool, "launch-1")
    files = LocalMachinesDirectory(place.layout.machines)
    await pool.launch(an_order(2), term=1)
    assert [one.order.launch_id for one in files.machines()] == ["launch-1", "launch-2"]
    await place.clock.advance((KEPT + timedelta(seconds=1)).total_seconds())
    await pool.launch(an_order(3), term=1)
    assert [one.order.launch_id for one in files.machines()] == ["launch-2", "launch-3"]


async def test_a_server_that_was_stopped_with_the_lock_is_not_waited_for_for_ever(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_orders, "LOCK_ATTEMPTS_MAX", 3)
    pool = place.pool()
    held = LocalMachinesDirectory(place.layout.machines).locked()
    with held, pytest.raises(PoolUnreachable, match="does not let go"):
        await pool.list()
    assert await pool.list() == []


async def test_a_damaged_directory_says_nothing_about_machines(place: Place) -> None:
    pool = place.pool()
    await pool.launch(an_order(1), term=1)
    (place.layout.machines / "launch-1.order.json").write_text("{")
    for call in (pool.list(), pool.launch(an_order(1), term=1), pool.terminate("launch-1", term=1)):
        with pytest.raises(PoolUnreachable):
            await call
