"""The end of a move at its target: what the guest waits for, and what goes on beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.qemu.builders import a_manifest

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.fault_points import FaultPoints
from sandfleet.adapters.qemu import take_over as taking
from sandfleet.adapters.qemu.cgroups import CgroupLimits
from sandfleet.adapters.qemu.host import Host, limits
from sandfleet.adapters.qemu.machine import QemuMachine, Sessions
from sandfleet.adapters.qemu.manifest import ARRIVING, READY, read_manifest
from sandfleet.model.errors import GuestUnresponsive
from sandfleet.ports.guest import Guest
from sandfleet.testing.fake_guest import FakeGuest


class _Monitor:
    """A QEMU that has received its guest; it keeps the order of what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.plugged_mib = 0

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        self.asked.append(command)
        answers: dict[str, Any] = {
            "query-migrate": {"status": "completed"},
            "query-status": {"status": "running" if "cont" in self.asked else "paused"},
            "qom-get": self.plugged_mib << 20,
        }
        return answers.get(command, {})

    async def take_back_named(self, _: str) -> None:
        """Nothing is held."""


class _Arrived:
    """A machine that has landed, with a guest that answers."""

    def __init__(self, directory: Path, guest: FakeGuest) -> None:
        self.qmp = _Monitor()
        manifest = a_manifest(state=ARRIVING, owner="sb-1", epoch=2, move_id="mv-1")
        self.directory = directory / manifest.machine_id
        self.directory.mkdir()
        self.limits: dict[str, CgroupLimits] = {}

        async def guests(_: Path) -> Guest:
            return guest

        class Place:
            faults = FaultPoints()
            cgroups = SimpleNamespace(set_limits=self.limits.__setitem__)

            def directory(self, machine_id: str) -> Path:
                return directory / machine_id

        Place.guests = staticmethod(guests)  # type: ignore[attr-defined]
        self.host = cast(Host, Place())
        sessions = Sessions(cast(Any, None), cast(Any, self.qmp), None)
        self.machine = QemuMachine(self.host, manifest, sessions)

    async def take_over(self, tell: Callable[[Guest], Awaitable[None]]) -> dict[str, float]:
        return await taking.take_over(self.host, self.machine, tell=tell)

    @property
    def written(self) -> str:
        try:
            return read_manifest(self.directory).state
        except FileNotFoundError:
            return ""


async def test_the_source_can_write_no_more_before_the_guest_runs_and_is_told(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        arrived = _Arrived(tmp_path, FakeGuest(tasks=tasks, clock=SystemClock()))

        async def tell(_: Guest) -> None:
            arrived.qmp.asked.append("told")

        steps = await arrived.take_over(tell)
        before = arrived.qmp.asked[: arrived.qmp.asked.index("told")]
        assert before.index("nbd-server-stop") < before.index("cont")
        assert set(steps) == {"landed", "withdrawn", "running", "greeted", "told", "written", "put_away"}
        assert steps["landed"] <= steps["withdrawn"] <= steps["running"] <= steps["greeted"] <= steps["told"]
        assert (arrived.written, arrived.machine.manifest.move_id) == (READY, "")


async def test_it_is_written_down_while_the_guest_is_told(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(60):
        arrived = _Arrived(tmp_path, FakeGuest(tasks=tasks, clock=SystemClock()))

        async def tell(_: Guest) -> None:
            while arrived.machine.manifest.state != READY:
                await asyncio.sleep(0)

        await arrived.take_over(tell)
        assert arrived.written == READY


async def test_a_guest_that_could_not_be_told_is_told_again_by_the_repeat(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as tasks:
        arrived = _Arrived(tmp_path, FakeGuest(tasks=tasks, clock=SystemClock()))
        told = []

        async def tell(guest: Guest) -> None:
            told.append(guest)
            if len(told) == 1:
                raise GuestUnresponsive("not now")

        with pytest.raises(GuestUnresponsive):
            await arrived.take_over(tell)
        assert arrived.written == READY
        await arrived.take_over(tell)
        assert len(told) == 2


async def test_what_it_may_take_is_as_much_as_it_has_by_then(tmp_path: Path) -> None:
    """It may have grown while its memory was copied to a place that was made before."""
    async with asyncio.TaskGroup() as tasks:
        arrived = _Arrived(tmp_path, FakeGuest(tasks=tasks, clock=SystemClock()))
        arrived.qmp.plugged_mib = 256

        async def tell(_: Guest) -> None:
            """Nothing else is asked of it."""

        await arrived.take_over(tell)
        grown_mib = arrived.machine.manifest.shape.memory_base_mib + 256
        assert arrived.machine.manifest.memory_mib == grown_mib
        assert list(arrived.limits.values()) == [limits(memory_mib=grown_mib, cpu_count=1)]
