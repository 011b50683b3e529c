"""What a guest does to itself stays with it: the host and the neighbour go on, and the agent answers."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from tests.vm.conftest import Start, run

from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.ports.guest import GuestIdentity

WHAT_THEY_DO = {
    "fills its memory": "python3 -c 'held = []\nwhile True: held.append(bytearray(b\"x\" * (16 << 20)))'",
    "forks without end": "python3 -c 'import os\nwhile True:\n    try: os.fork()\n    except OSError: pass'",
    "fills its root disk": (
        "fallocate -l $(df --output=avail -k /var/tmp | tail -1)K /var/tmp/full; "
        "while echo more >> /var/tmp/rest; do :; done"
    ),
}
DOES_IT_FOR_S = 8


async def usable(machine: QemuMachine, host_name: str) -> None:
    """Make `machine` somebody, with the limits that a sandbox has."""
    identity = GuestIdentity(host_name, secrets.token_bytes(64), 1_800_000_000.0)
    await machine.guest.assume_identity(identity)
    await machine.guest.set_limits(memory_mib=456, cpu_percent=100, pids_max=256)


@pytest.mark.parametrize("deed", WHAT_THEY_DO)
async def test_neighbours_and_agent_survive(deed: str, start: Start) -> None:
    hostile, neighbour = await start(), await start()
    await usable(hostile, "sb-hostile")
    await usable(neighbour, "sb-neighbour")
    await run(hostile.guest, WHAT_THEY_DO[deed], user="sandbox", timeout_s=DOES_IT_FOR_S)
    assert await run(neighbour.guest, "echo fine", user="sandbox") == (0, "fine\n")
    await hostile.guest.ping()
    assert await hostile.is_alive()
    assert await run(hostile.guest, "rm -f /var/tmp/full /var/tmp/rest; echo back") == (0, "back\n")
    used = Path(f"/proc/{hostile.facts.pid}/smaps_rollup").read_text()
    assert int(used.split("Rss:")[1].split()[0]) < (512 + 256) * 1024


async def test_a_guest_that_ends_its_kernel_ends_alone(start: Start) -> None:
    hostile, neighbour = await start(), await start()
    await run(hostile.guest, "(sleep 0.2; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &")
    reason = await hostile.wait_dead()
    assert "guest" in reason
    assert not await hostile.is_alive()
    assert await run(neighbour.guest, "echo fine") == (0, "fine\n")
