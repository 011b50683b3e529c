"""The host's disk is full: guests that write stand still until there is room, and lose nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.vm.conftest import ORDER, Start, run

from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.model.errors import SandfleetError

WRITE = "dd if=/dev/urandom of=/root/big bs=1M count=24 conv=fsync 2>&1 && sha256sum < /root/big > /root/sum"
DROP = "sync; echo 3 > /proc/sys/vm/drop_caches"
CHECK = f"{DROP}; sha256sum < /root/big | cmp - /root/sum && touch /root/x && sync"


@contextmanager
def small_disk(at: Path, *, mib: int) -> Iterator[Path]:
    """Mount a memory file system of a few MiB; what is given is a file that fills it as long as it exists."""
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", str(at)], check=True)
    try:
        yield at / "ballast"
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def fill(ballast: Path, *, but: int) -> None:
    """Take all room but so many bytes."""
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], check=False, capture_output=True)
    os.truncate(ballast, ballast.stat().st_size - but)


async def stands_still(machine: QemuMachine) -> None:
    async with asyncio.timeout(120):
        while (await machine.monitor.execute("query-status"))["status"] != "io-error":
            await asyncio.sleep(0.05)


async def test_a_guest_whose_write_finds_the_disk_full_goes_on_when_there_is_room(
    start: Start, hypervisor: QemuHypervisor, data_dir: Path
) -> None:
    with small_disk(data_dir / "machines", mib=160) as ballast:
        machine = await start(ORDER)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(machine.wait_dead())
            await asyncio.to_thread(fill, ballast, but=8 << 20)
            writing = tasks.create_task(run(machine.guest, WRITE, timeout_s=300))
            await stands_still(machine)
            with pytest.raises((SandfleetError, TimeoutError)):
                async with asyncio.timeout(3):
                    await hypervisor.snapshots.save(machine, "s")
            assert not writing.done()
            ballast.unlink()
            assert (await writing)[0] == 0
            assert (await run(machine.guest, CHECK, timeout_s=300))[0] == 0, (
                "the guest's file system has given itself up"
            )
            watching.cancel()
        assert hypervisor.snapshots.find("s") is None
        await machine.destroy()
