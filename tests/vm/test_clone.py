"""A clone is a machine of its own: runs commands, shares nothing that is written, and is confined."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

from tests.vm.conftest import ORDER, Start, run

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu.write_faults import GROUP
from sandfleet.ports.guest import GuestIdentity


async def test_a_clone_runs_a_command(start: Start) -> None:
    machine = await start()
    assert await run(machine.guest, "echo hello; exit 7") == (7, "hello\n")
    assert await machine.is_alive()
    assert machine.facts.order == ORDER
    assert 10 < await machine.memory_used_mib() < 512


async def test_clones_share_nothing_that_they_write(start: Start) -> None:
    one, other = await start(), await start()
    for machine, words in ((one, "first"), (other, "second")):
        await machine.guest.assume_identity(_identity())
        await run(machine.guest, f"echo {words} > /etc/mark; echo {words} > /home/sandbox/mark; sync")
    for machine, words in ((one, "first"), (other, "second")):
        code, said = await run(machine.guest, "cat /etc/mark /home/sandbox/mark")
        assert (code, said) == (0, f"{words}\n{words}\n")


async def test_clones_of_one_template_draw_different_random_numbers_before_any_help(start: Start) -> None:
    machines = [await start() for _ in range(3)]
    script = "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid"
    drawn = [await run(machine.guest, script) for machine in machines]
    assert all(code == 0 for code, _said in drawn)
    assert len({said for _code, said in drawn}) == 3


async def test_identities_are_distinct(start: Start) -> None:
    seen: list[str] = []
    for number in range(2):
        machine = await start()
        await machine.guest.assume_identity(_identity(f"sb-number{number}"))
        script = "cat /etc/machine-id; hostname; cat /etc/ssh/ssh_host_*_key.pub 2>/dev/null | sha256sum"
        code, said = await run(machine.guest, script)
        assert code == 0
        seen.append(said)
    first, second = (said.split("\n") for said in seen)
    assert first[0] != second[0]
    assert (first[1], second[1]) == ("sb-number0", "sb-number1")


async def test_qemu_has_no_privilege(start: Start) -> None:
    machine = await start()
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{machine.facts.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    uid = str(machine.manifest.uid)
    assert status["Uid"].split() == [uid] * 4
    assert status["Gid"].split() == [uid] * 4
    assert status["Groups"].split() == [str(GROUP)]  # which may watch write faults, and nothing else
    assert (status["Seccomp"].strip(), status["NoNewPrivs"].strip()) == ("2", "1")
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}
    score = Path(f"/proc/{machine.facts.pid}/oom_score_adj").read_text().strip()
    assert int(score) > 0


async def test_qemu_is_limited_from_outside(start: Start) -> None:
    machine = await start()
    groups = Path(f"/proc/{machine.facts.pid}/cgroup").read_text()
    for name in ("memory", "cpu", "pids"):
        if name not in machine.host.cgroups.missing:
            assert f"/sandfleet/{machine.facts.machine_id}" in groups
    limit = machine.host.cgroups.memory_limit_mib(machine.facts.machine_id)
    assert limit is None or 512 < limit <= 512 + 256


async def test_a_larger_order_gets_its_memory_its_vcpus_and_its_disk(start: Start) -> None:
    machine = await start(replace(ORDER, memory_mib=1024, cpu_count=3, disk_mib=20480 + 1024))
    await machine.guest.assume_identity(_identity())
    await machine.guest.grow_disk()
    code, said = await run(
        machine.guest, "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; df -m /home/sandbox"
    )
    lines = said.splitlines()
    assert code == 0
    assert lines[0] == "3"
    assert 0.88 * 1024 < int(lines[1]) / 1024 <= 1024
    assert int(lines[-1].split()[1]) > 20480 * 0.98


async def test_the_end_of_a_machine_is_noticed_with_its_reason(start: Start) -> None:
    machine = await start()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        waiting = group.create_task(machine.wait_dead())
        await machine.guest.shut_down()
    reason = waiting.result()
    assert "guest" in reason
    assert not await machine.is_alive()


def _identity(host_name: str = "sb-test") -> GuestIdentity:
    return GuestIdentity(
        host_name=host_name,
        seed=secrets.token_bytes(64),
        wall_clock_s=SystemClock().now().timestamp(),
    )
