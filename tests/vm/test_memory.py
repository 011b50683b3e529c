"""Memory grows and shrinks while the guest runs, and what counts is what the guest reached."""

from __future__ import annotations

from tests.vm.conftest import Start, run

from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.ports.guest import ExecOrder

ATTEMPTS_MAX = 20


async def total_mib(machine: QemuMachine) -> float:
    _code, said = await run(machine.guest, "awk '/MemTotal/ {print $2}' /proc/meminfo")
    return int(said) / 1024


async def resized(machine: QemuMachine, memory_mib: int) -> int:
    """Ask for a size until the guest has come to it: a slow one is left where it stands still for seconds."""
    for _ in range(ATTEMPTS_MAX):
        reached = await machine.resize_memory(memory_mib)
        if reached == memory_mib:
            break
    return reached


async def test_growing_and_shrinking_is_visible_in_the_guest_and_in_the_hosts_limit(start: Start) -> None:
    machine = await start()
    assert await resized(machine, 2048) == 2048
    assert 0.88 * 2048 < await total_mib(machine) <= 2048
    limit = machine.host.cgroups.memory_limit_mib(machine.facts.machine_id)
    assert limit is None or limit > 2048
    assert machine.facts.order.memory_mib == 2048
    assert await resized(machine, 512) == 512
    assert 0.8 * 512 < await total_mib(machine) <= 512
    limit = machine.host.cgroups.memory_limit_mib(machine.facts.machine_id)
    assert limit is None or limit < 1024


async def test_a_size_that_is_reached_is_in_use_in_the_guest_at_once(start: Start) -> None:
    machine = await start()
    for size_mib in (512, 640, 512, 768):
        assert await resized(machine, size_mib) == size_mib
        total_mib = (await machine.guest.stats()).memory_total >> 20
        assert size_mib - machine.manifest.shape.memory_block_mib < total_mib <= size_mib


async def test_a_size_is_rounded_up_to_the_block_and_kept_in_the_machines_range(start: Start) -> None:
    machine = await start()
    assert await resized(machine, 768) == await machine.resize_memory(700) == 768
    assert await resized(machine, 512) == await machine.resize_memory(1) == 512


async def test_memory_in_use_is_not_taken_away(start: Start) -> None:
    machine = await start()
    assert await resized(machine, 1536) == 1536
    await machine.guest.set_limits(memory_mib=1536, cpu_percent=100, pids_max=256)
    hold = 'import time; held = b"x" * (900 << 20); open("/tmp/held", "w").close(); time.sleep(600)'
    await machine.guest.start_exec(ExecOrder("ex-holding", ["python3", "-c", hold], user="root"))
    code, said = await run(
        machine.guest, "while [ ! -e /tmp/held ]; do sleep 0.1; done; echo held", timeout_s=300
    )
    assert (code, said) == (0, "held\n"), await machine.guest.exec_status("ex-holding")
    reached = await machine.resize_memory(512)
    assert 900 < reached < 1536
    assert machine.facts.order.memory_mib == reached
    await machine.guest.kill_exec("ex-holding")
    assert not (await machine.guest.wait_exec("ex-holding", timeout_s=120)).running
    assert await resized(machine, 512) == 512
