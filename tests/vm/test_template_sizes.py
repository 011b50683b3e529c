"""The usual memory size has a template of its own: its clones plug nothing, and are like any other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.vm.conftest import ORDER, Start

from sandfleet.adapters.qemu import memory
from sandfleet.adapters.qemu.machine import QemuMachine


async def usable_mib(machine: QemuMachine) -> int:
    return (await machine.guest.stats()).memory_total >> 20


@pytest.mark.parametrize("memory_default_mib", [1024])
async def test_a_usual_size_comes_from_a_template_that_has_it_and_shrinks_like_any_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_arguments: object) -> None:
        raise AssertionError("a clone of a template's size plugs nothing")

    monkeypatch.setattr(memory, "ask", refused)
    usual, least = await start(replace(ORDER, memory_mib=1024)), await start()
    monkeypatch.undo()
    assert usual.facts.template_version != least.facts.template_version
    for machine, size_mib in ((usual, 1024), (least, 512)):
        assert 0.8 * size_mib < await usable_mib(machine) <= size_mib
        assert await memory.current(machine.monitor, machine.manifest.shape) == size_mib
        limit_mib = machine.host.cgroups.memory_limit_mib(machine.facts.machine_id)
        assert limit_mib is None or size_mib < limit_mib < size_mib + 512
    assert await usual.resize_memory(1536) == 1536
    assert await usual.resize_memory(512) == 512
    assert 0.8 * 512 < await usable_mib(usual) <= 512
