"""A guest may run on only when QEMU has its devices and protects its memory."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from qemu.qmp import EventListener

from sandfleet.adapters.qemu import migration
from sandfleet.adapters.qemu.migration import begin_background
from sandfleet.adapters.qemu.qmp import Qmp

HEADERS = {"status": "active", "ram": {"transferred": 4096, "normal": 0, "duplicate": 0}}
A_PAGE = {"status": "active", "ram": {"transferred": 9000, "normal": 1, "duplicate": 0}}
A_ZERO_PAGE = {"status": "active", "ram": {"transferred": 4100, "normal": 0, "duplicate": 1}}


class Monitor:
    """Answers one question after the other about the save under way."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)

    async def execute(self, command: str, arguments: object = None, **_: object) -> Any:
        return self.answers.pop(0) if command == "query-migrate" else {}

    async def execute_when_ready(self, command: str, arguments: object = None) -> Any:
        return {}


@pytest.mark.parametrize("begun", [A_PAGE, A_ZERO_PAGE, {"status": "completed"}])
async def test_headers_are_not_yet_the_instant(
    monkeypatch: pytest.MonkeyPatch, begun: dict[str, Any]
) -> None:
    async def no_event(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(migration, "event_or_pause", no_event)
    monitor = Monitor({"status": "setup"}, HEADERS, HEADERS, begun, A_PAGE)
    assert await begin_background(cast("Qmp", monitor), cast("EventListener", None), "f") is None
    assert monitor.answers == [A_PAGE]
