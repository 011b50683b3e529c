"""The agent as the first process of a real guest, over its real port."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.vm.conftest import Start, run

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.model.errors import ExecFailed
from sandfleet.ports.guest import ExecOrder, Guest, GuestIdentity


async def one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


def identity(host_name: str, *, renew: bool = False, **envs: str) -> GuestIdentity:
    return GuestIdentity(host_name, os.urandom(32), 2_000_000_000.0, envs, renew=renew)


async def said(guest: Guest, script: str, *, user: str = "sandbox") -> str:
    code, output = await run(guest, script, user=user)
    assert code == 0, output
    return output.strip()


@pytest.fixture
async def guest(start: Start) -> Guest:
    """A fresh guest that is nobody yet."""
    return (await start()).guest


async def test_processes_stand_where_they_should(guest: Guest) -> None:
    assert await said(guest, "cat /proc/1/comm") == "osb-agent"
    assert (await said(guest, "tr '\\0' ' ' < /proc/1/cmdline")).startswith("osb-agent ")
    assert await said(guest, "cat /proc/1/oom_score_adj; cat /proc/self/oom_score_adj") == "-1000\n0"
    assert await said(guest, "cat /proc/1/cgroup") == "0::/"
    assert (await said(guest, "cat /proc/self/cgroup")).startswith("0::/sandbox/exec-")
    assert await said(guest, "id -un; pwd; echo $HOME") == "sandbox\n/home/sandbox\n/home/sandbox"
    assert await said(guest, "id -Gn; sudo id -un") == "sandbox\nroot"
    assert await said(guest, "grep -E 'SigIgn|SigBlk' /proc/self/status") == (
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000"
    )
    # Nothing of an exec stays: neither its cgroup nor a zombie.
    await said(guest, "until [ $(ls -d /sys/fs/cgroup/sandbox/exec-* | wc -l) = 1 ]; do sleep 0.1; done")
    await said(guest, "while ps -eo stat= | grep Z; do sleep 0.1; done")


async def test_what_cannot_start_says_why(guest: Guest) -> None:
    for argv, cwd, message in (
        (["no-such-program"], None, "No such file"),
        (["/etc/passwd"], None, "Permission denied"),
        (["true"], "/no/such", "cannot enter the directory /no/such"),
        (["/tmp/a:b"], None, "No such file"),
    ):
        with pytest.raises(ExecFailed, match=message):
            await guest.start_exec(ExecOrder("ex-bad", argv, cwd=cwd))


async def test_an_identity_is_taken_once_and_renewed_on_demand(guest: Guest) -> None:
    await guest.assume_identity(identity("sb-first", A="1"))
    first_id = await said(guest, "cat /etc/machine-id")
    assert await said(guest, "hostname; getent hosts sb-first | wc -l; echo $A") == "sb-first\n1\n1"
    assert (await said(guest, "date -u +%Y-%m-%d")) == "2033-05-18"
    started = time.monotonic()
    await guest.assume_identity(identity("sb-second-name", A="2"))
    assert time.monotonic() - started < 30  # and not as long as new ssh keys take
    assert await said(guest, "hostname; cat /etc/hostname; echo $A") == "sb-second-name\nsb-second-name\n2"
    assert await said(guest, "cat /etc/machine-id") == first_id
    await guest.assume_identity(identity("sb-fork", renew=True))
    renewed_id = await said(guest, "cat /etc/machine-id")
    assert len(renewed_id) == len(first_id) == 32
    assert renewed_id != first_id


async def test_files_below_home_and_workspace_are_the_users(guest: Guest) -> None:
    await guest.assume_identity(identity("sb-files"))
    for path in ("new/deep/file", "/workspace/file", "/opt/deep/file"):
        await guest.write_file(path, one_chunk(b"content"))
    await guest.make_directory("/workspace/made")
    listing = "stat -c '%U %a %n' new new/deep/file /workspace/file /workspace/made /opt/deep/file"
    assert (await said(guest, listing)).splitlines() == [
        "sandbox 755 new",
        "sandbox 644 new/deep/file",
        "sandbox 644 /workspace/file",
        "sandbox 755 /workspace/made",
        "root 644 /opt/deep/file",
    ]
    assert await said(guest, "findmnt -no SOURCE /workspace; findmnt -no SOURCE /") != "/dev/vda\n/dev/vda"
    cache = "touch /home/sandbox/.osb-apt-cache/probe; ls /var/cache/apt/archives"
    code, output = await run(guest, cache, user="root")
    assert (code, "probe" in output) == (0, True)


async def test_limits_are_those_of_the_sandbox(guest: Guest) -> None:
    await guest.set_limits(memory_mib=400, cpu_percent=150, pids_max=300)
    limits = await said(guest, "cd /sys/fs/cgroup/sandbox; cat pids.max cpu.max memory.max")
    pids_max, cpu_max, memory_max = limits.splitlines()
    assert (pids_max, cpu_max) == ("300", "150000 100000")
    assert int(memory_max) == 400 * 2**20


async def test_a_port_whose_hosts_come_and_go_loses_nothing(start: Start, data_dir: Path) -> None:
    machine = await start()
    socket = data_dir / "machines" / machine.facts.machine_id / "agent.sock"
    await machine.guest.start_exec(ExecOrder("ex-count", ["seq", "1", "300000"]))
    await machine.guest.close()  # QEMU serves one connection at a time
    lines = bytearray()
    while True:
        async with VirtioGuest(socket) as guest:
            output = guest.read_output("ex-count", offset=len(lines))
            async for piece in output:
                lines += piece.data
                if secrets.randbelow(4) == 0:
                    break
            else:
                break
    assert lines.split() == [str(number).encode() for number in range(1, 300_001)]


async def test_many_commands_at_once(guest: Guest) -> None:
    done = await asyncio.gather(*(run(guest, f"exit {number}", user="sandbox") for number in range(32)))
    assert [code for code, _ in done] == list(range(32))


async def test_it_powers_off_when_asked(start: Start) -> None:
    machine = await start()
    await machine.guest.shut_down()
    async with asyncio.timeout(60):
        await machine.wait_dead()
