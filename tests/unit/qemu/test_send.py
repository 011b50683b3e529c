"""Sending a machine: silence ends it, and a guest that stands still is not lost sight of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from qemu.qmp import EventListener
from tests.unit.qemu.builders import a_manifest

from sandfleet.adapters.qemu import mirror, send
from sandfleet.adapters.qemu.host import Host
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import Manifest
from sandfleet.adapters.qemu.qmp import Qmp
from sandfleet.model.errors import HypervisorFailed, MoveUndecided
from sandfleet.model.move import MovePolicy, MoveSample, MoveVerdict
from sandfleet.planning import precopy
from sandfleet.ports.moves import Pilot
from sandfleet.wire.move_manifest import Landing

LOOKS_MAX = 20
LANDING = Landing(host="::1", memory_port=1, disk_port=2, key="k", may_post_copy=False)


class SilentQmp:
    """A QEMU whose target has taken the connection and says nothing."""

    looks = 0

    async def execute(self, command: str, *_: object) -> dict[str, Any]:
        assert command == "query-migrate"
        self.looks += 1
        if self.looks > LOOKS_MAX:
            raise AssertionError("it would be waited for without end")
        return {"status": "setup"}


class PlannedPilot:
    """Decides by the planner, with no patience."""

    def switching(self) -> None:
        """Nobody is served here."""

    def course(self, samples: list[MoveSample]) -> MoveVerdict:
        return precopy.course(samples, MovePolicy(silent_s_max=1e-6), may_post_copy=False)


class FakeMachine:
    """As much of a machine as is asked for here."""

    sessions = None

    def __init__(self, qmp: object = None) -> None:
        self.monitor = qmp
        self.manifest: Manifest = a_manifest()
        self.changing = asyncio.Lock()

    async def is_alive(self) -> bool:
        return True


async def test_a_target_that_takes_the_connection_and_never_answers_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_jobs(_: Qmp) -> dict[str, Any]:
        return {}

    monkeypatch.setattr(mirror, "jobs", no_jobs)
    monkeypatch.setattr(send, "LOOK_EVERY_S", 0.001)
    machine = cast("QemuMachine", FakeMachine(SilentQmp()))
    copying = send._Precopy(machine, cast("Pilot", PlannedPilot()), send._Watch(0.0), is_still=True)
    with pytest.raises(HypervisorFailed, match="no byte has moved"):
        await copying.until_paused(EventListener(("MIGRATION",)))


class OutrunQmp:
    """A QEMU whose guest writes more in each round than was foreseen, for as long as it runs."""

    def __init__(self) -> None:
        self.round = 1
        self.asked: list[str] = []

    async def execute(self, command: str, *_: object) -> dict[str, Any]:
        self.asked.append(command)
        if command == "query-status":
            return {"status": "paused" if "stop" in self.asked else "running"}
        if command != "query-migrate":
            return {}
        if "stop" in self.asked:
            return {"status": "pre-switchover"}
        self.round += 1
        left = 10_000 if self.round == 2 else 500_000_000
        ram = {"dirty-sync-count": self.round, "transferred": self.round, "remaining": left, "mbps": 80}
        return {"status": "active", "ram": ram}


async def test_a_guest_that_outruns_what_was_decided_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is let in any more: were it left running, that could go on for all rounds."""

    async def no_jobs(_: Qmp) -> dict[str, Any]:
        return {}

    class Patient(PlannedPilot):
        def course(self, samples: list[MoveSample]) -> MoveVerdict:
            return precopy.course(samples, MovePolicy(), may_post_copy=True)

    monkeypatch.setattr(mirror, "jobs", no_jobs)
    monkeypatch.setattr(send, "LOOK_EVERY_S", 0.001)
    qmp = OutrunQmp()
    machine = cast("QemuMachine", FakeMachine(qmp))
    copying = send._Precopy(machine, cast("Pilot", Patient()), send._Watch(0.0), is_still=False)
    await copying.until_paused(EventListener(("MIGRATION",)))
    assert (qmp.round, qmp.asked.count("stop")) == (4, 1)


class FullQmp:
    """A QEMU whose guest waits for room on the host's disk."""

    async def execute(self, command: str, *_: object) -> dict[str, Any]:
        return {"status": "io-error"} if command == "query-status" else {}


async def test_a_guest_that_waits_for_room_on_the_disk_does_not_leave() -> None:
    """Resumed by itself while it is taken to stand still, it would write what nobody copies."""
    machine = cast("QemuMachine", FakeMachine(FullQmp()))
    with pytest.raises(HypervisorFailed, match="io-error"):
        await send._stand_still(machine, cast("Pilot", PlannedPilot()))


@pytest.fixture
def fake_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], Host]:
    """Return a maker of a host on which each departure fails, and then the way back as said."""

    async def nothing(*_: object, **__: object) -> None:
        return None

    async def fails(*_: object, **__: object) -> None:
        raise HypervisorFailed("the target has gone")

    def made(way_back: Exception | None) -> Host:
        async def stay(*_: object) -> None:
            if way_back is not None:
                raise way_back

        monkeypatch.setattr(send.chains, "shorten", nothing)
        monkeypatch.setattr(send, "_mark", nothing)
        monkeypatch.setattr(send, "_depart", fails)
        monkeypatch.setattr(send, "stay", stay)
        return cast("Host", tmp_path)

    return made


@pytest.mark.parametrize(
    ("way_back", "error", "said"),
    [
        (None, HypervisorFailed, "the target has gone"),
        (HypervisorFailed("a copy cannot be ended"), MoveUndecided, "a copy cannot be ended"),
    ],
)
async def test_a_guest_that_cannot_be_called_back_is_undecided_and_not_failed(
    fake_host: Callable[[Exception | None], Host],
    way_back: Exception | None,
    error: type[HypervisorFailed],
    said: str,
) -> None:
    host = fake_host(way_back)
    machine = cast("QemuMachine", FakeMachine())
    with pytest.raises(HypervisorFailed, match=said) as raised:
        await send.send(host, machine, LANDING, move_id="mv-1", pilot=cast("Pilot", PlannedPilot()))
    assert raised.type is error
