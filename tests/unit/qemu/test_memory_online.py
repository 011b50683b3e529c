"""Memory counts when the guest can use it, not when QEMU has handed it out."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.qemu.builders import SHAPE

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu import memory
from sandfleet.testing.fake_guest import FakeGuest

KERNEL_MIB = 49


async def _online(monkeypatch: pytest.MonkeyPatch, size_mib: int, *used_mib: int) -> tuple[int, int]:
    """Return what is said of a guest that uses these sizes, one look after the other; and the looks."""
    monkeypatch.setattr(memory, "ROUND_S", 0)
    async with asyncio.TaskGroup() as tasks:
        guest = FakeGuest(tasks=tasks, clock=SystemClock())
        looks = 0

        async def look(*, at_least: int, wait_s: float) -> int:
            nonlocal looks
            looks += 1
            used = used_mib[min(looks, len(used_mib)) - 1]
            total = (used - KERNEL_MIB) << 20
            assert (total >= at_least) == (used == size_mib), (
                "the guest waits for as long as a block is missing"
            )
            return total

        monkeypatch.setattr(guest, "memory_total", look)
        return await memory.online(guest, SHAPE, size_mib), looks


async def test_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _online(monkeypatch, 1024, 768, 896, 1024) == (1024, 3)


async def test_what_never_comes_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _online(monkeypatch, 1024, 512, 768) == (768, memory.ONLINE_ROUNDS_MAX)


async def test_a_size_that_is_there_costs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _online(monkeypatch, 512, 512) == (512, 1)
