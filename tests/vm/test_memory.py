"""Memory grows and shrinks while the guest runs, and what counts is what the guest reached."""

from __future__ import annotations

from tests.vm.conftest import Start, run

from sandfleet.adapters.qemu.machine import QemuMachine


async def total_mib(machine: QemuMachine) -> float:
    _code, said = await run(machine.guest, "awk '/MemTotal/ {print $2}' /proc/meminfo")
    return int(said) / 1024


async def test_growing_and_shrinking_is_visible_in_the_guest_and_in_the_hosts_limit(start: Start) -> None:
    machine = await start()
    assert await machine.resize_memory(2048) == 2048
    assert 0.88 * 2048 < await total_mib(machine) <= 2048
    limit = machine.host.cgroups.memory_limit_mib(machine.facts.machine_id)
    assert limit is None or limit > 2048
    assert machine.facts.order.memory_mib == 2048
    assert await machine.resize_memory(512) == 512
    assert 0.8 * 512 < await total_mib(machine) <= 512
    limit = machine.host.cgroups.memory_limit_mib(machine.facts.machine_id)
    assert limit is None or limit < 1024


async def test_a_size_is_rounded_up_to_the_block_and_kept_in_the_machines_range(start: Start) -> None:
    machine = await start()
    assert await machine.resize_memory(700) == 768
    assert await machine.resize_memory(1) == 512


async def test_memory_in_use_is_not_taken_away(start: Start) -> None:
    machine = await start()
    assert await machine.resize_memory(1536) == 1536
    await machine.guest.set_limits(memory_mib=1536, cpu_percent=100, pids_max=256)
    hold = "python3 -c 'import time; held = bytearray(b\"x\" * (900 << 20)); time.sleep(600)'"
    await run(machine.guest, f"{hold} >/dev/null 2>&1 & sleep 0.1")
    await run(
        machine.guest,
        "while [ $(awk '/MemAvailable/ {print $2}' /proc/meminfo) -gt 600000 ]; do sleep 0.2; done",
    )
    reached = await machine.resize_memory(512)
    assert 900 < reached < 1536
    assert machine.facts.order.memory_mib == reached
    code, _said = await run(machine.guest, "pkill -f bytearray")
    assert code == 0
    assert await machine.resize_memory(512) == 512
