"""Forks that share the memory they were loaded from: each has all of it, and changes are its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.vm.conftest import Start, run
from tests.vm.test_snapshots import become, begin_load, check_load

from sandfleet.adapters.qemu import load_for_forks, migration, snapshot_files
from sandfleet.adapters.qemu.fork_memory import ALONE_MAX
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.load import LoadOrder
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.model.errors import HypervisorFailed

SHARED = "memfd:sandfleet-fork-pages"
COUNT = ALONE_MAX + 1
Fork = Callable[[str, int], Awaitable[list[QemuMachine]]]
_HELD = "md5sum -c /root/sum; cat /etc/machine-id; od -An -N16 -tx1 /dev/urandom"


@pytest.fixture
async def fork(hypervisor: QemuHypervisor, data_dir: Path) -> AsyncIterator[Fork]:
    """Load forks at the same time; they are destroyed when the test ends."""
    loaded: list[QemuMachine] = []

    async def fork(snapshot_id: str, count: int) -> list[QemuMachine]:
        directory = data_dir / "snapshots" / snapshot_id
        snapshots = hypervisor.snapshots
        loads = (
            snapshots.load(directory, owner=f"sb-{number}", epoch=1, is_fork=True) for number in range(count)
        )
        machines = [machine for machine in await asyncio.gather(*loads) if isinstance(machine, QemuMachine)]
        loaded.extend(machines)
        return machines

    yield fork
    for machine in loaded:
        await machine.destroy()


def maps_shared(machine: QemuMachine) -> bool:
    """Whether the machine's QEMU maps memory of forks."""
    return SHARED in Path(f"/proc/{machine.facts.pid}/maps").read_text()


@contextmanager
def waiting_beside(hypervisor: QemuHypervisor, directory: Path) -> Iterator[None]:
    """Have as many more forks wait as would each load alone: else it is chance who finds enough others."""
    digest = LoadOrder(directory, snapshot_files.read(directory), "", 0).memory_digest
    memories = hypervisor._host.fork_memories
    with ExitStack() as waiting:
        for _ in range(ALONE_MAX):
            waiting.enter_context(memories.loading(digest))
        yield


async def test_forks_share_what_they_were_loaded_from_and_nothing_else(
    start: Start, hypervisor: QemuHypervisor, fork: Fork, data_dir: Path
) -> None:
    parent = await start()
    await parent.resize_memory(1024)
    hold = "head -c 200M /dev/urandom > /dev/shm/held; md5sum /dev/shm/held > /root/sum"
    assert await run(parent.guest, hold, timeout_s=300) == (0, "")
    await begin_load(parent.guest)
    await hypervisor.snapshots.capture(parent, "origin")
    (alone,) = await fork("origin", 1)
    assert not maps_shared(alone)
    with waiting_beside(hypervisor, data_dir / "snapshots" / "origin"):
        together = await fork("origin", COUNT)
    assert all(maps_shared(machine) for machine in together)
    (later,) = await fork("origin", 1)
    assert maps_shared(later)  # it is there, so one alone has it too
    forks = [alone, *together, later]
    said = []
    for number, machine in enumerate(forks):
        await become(machine, f"sb-{number}", renew=True)
        code, text = await run(machine.guest, _HELD, timeout_s=300)
        assert code == 0
        assert text.startswith("/dev/shm/held: OK\n")
        said.append(text.split("\n")[1:3])
        await check_load(machine.guest)
    for values in zip(*said, strict=True):
        assert len(set(values)) == len(forks), values

    # What one of them becomes is saved and comes back, and is no longer shared.
    assert await run(together[0].guest, "echo mine > /root/mine; echo mine > /dev/shm/mine") == (0, "")
    await hypervisor.snapshots.save(together[0], "ended")
    woken = await hypervisor.snapshots.load(data_dir / "snapshots" / "ended", owner="sb-0", epoch=2)
    assert isinstance(woken, QemuMachine)
    try:
        assert not maps_shared(woken)
        assert await run(woken.guest, "cat /root/mine /dev/shm/mine; md5sum -c /root/sum", timeout_s=300) == (
            0,
            "mine\nmine\n/dev/shm/held: OK\n",
        )
    finally:
        await woken.destroy()
    assert (await run(together[1].guest, "ls /root/mine"))[0] != 0

    # All of them gone, nothing is kept; the next ones make it anew.
    for machine in forks:
        await machine.destroy()
    assert not _open_shares()
    await check_load(parent.guest)


async def test_forks_load_alone_where_nothing_can_be_shared(
    start: Start, hypervisor: QemuHypervisor, fork: Fork, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = await start()
    assert await run(parent.guest, "echo kept > /dev/shm/kept") == (0, "")
    await hypervisor.snapshots.capture(parent, "origin")
    writes = migration.save_apart

    async def fails(*_: object, **__: object) -> None:
        raise HypervisorFailed("no")

    monkeypatch.setattr(load_for_forks.migration, "save_apart", fails)
    forks = await fork("origin", COUNT)
    monkeypatch.setattr(load_for_forks.migration, "save_apart", writes)
    for machine in forks:
        assert not maps_shared(machine)
        assert await run(machine.guest, "cat /dev/shm/kept") == (0, "kept\n")
    assert not _open_shares()


def _open_shares() -> list[str]:
    """Return what this process holds for forks to come."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            target = str(path.readlink())
        except OSError:
            continue
        if "sandfleet-fork" in target:
            found.append(target)
    return found
