"""Snapshots of real guests: nothing written is lost, nothing half made is ever used, forks are others."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.vm.conftest import IMAGE, Start, make_hypervisor, run
from tests.vm.test_memory import resized

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.qemu import chains
from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed, SnapshotUnusable
from sandfleet.ports.guest import ExecOrder, Guest, GuestIdentity
from sandfleet.ports.hypervisor import MachineOrder

ORDER_SMALL = MachineOrder(IMAGE, memory_mib=512, cpu_count=1, disk_mib=20480)
SEED = 20260801
ROUNDS = int(os.environ.get("SANDFLEET_LOAD_ROUNDS", "12"))

WRITER = r"""
import hashlib, mmap, os, random, sys, time
pattern = random.Random(7).randbytes(4 << 20)
memory = bytearray(pattern)
digest = hashlib.sha256(pattern).hexdigest()
number = 0
while True:
    number += 1
    block = number.to_bytes(8, "big") * 8192
    name = f"/workspace/load/{number % 40}"
    with open(name + ".new", "wb") as file:
        file.write(hashlib.sha256(block).digest() + block)
        if number % 5 == 0:
            file.flush()
            os.fsync(file.fileno())
    os.replace(name + ".new", name)
    at = (number * 4096) % len(memory)
    memory[at:at + 4096] = pattern[at:at + 4096]
    if number % 50 == 0 and hashlib.sha256(memory).hexdigest() != digest:
        print("WRONG MEMORY", number, flush=True)
        sys.exit(3)
    print(number, flush=True)
    time.sleep(0.02)
"""

CHECKER = r"""
import hashlib, os, sys
good = 0
for name in os.listdir("/workspace/load"):
    if name.endswith(".new"):
        continue
    content = open("/workspace/load/" + name, "rb").read()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        sys.exit(f"wrong bytes in {name}")
    good += 1
print(good)
"""


async def begin_load(guest: Guest) -> None:
    """Have the guest write files and a memory pattern, all checked, for ever."""
    script = (
        f"mkdir -p /workspace/load; cat > /root/w.py <<'E'\n{WRITER}\nE\ncat > /root/c.py <<'E'\n{CHECKER}\nE"
    )
    assert await run(guest, script) == (0, "")
    await guest.start_exec(ExecOrder("load", ["python3", "/root/w.py"], user="root"))
    await moves_on(guest, 0)  # a slow guest may not have opened its files yet


async def moves_on(guest: Guest, beyond: int) -> None:
    """Return once the load has told more than ``beyond`` bytes; fail if it never does."""
    async with asyncio.timeout(240):
        while (await guest.exec_status("load")).output_bytes <= beyond:
            await asyncio.sleep(0.05)


async def check_load(guest: Guest) -> int:
    """Read everything back from the disk; return how far the load is. It must go on from there."""
    status = await guest.exec_status("load")
    assert status.running, status
    code, said = await run(
        guest, "sync; echo 3 > /proc/sys/vm/drop_caches; python3 /root/c.py; ls /etc | wc -l", timeout_s=240
    )
    assert code == 0, said
    first = (await guest.exec_status("load")).output_bytes
    await moves_on(guest, first)
    return first


async def become(machine: QemuMachine, name: str, *, renew: bool) -> None:
    """Do what the worker does with a machine that it has loaded."""
    identity = GuestIdentity(
        host_name=name, seed=random.randbytes(64), wall_clock_s=SystemClock().now().timestamp(), renew=renew
    )
    await machine.guest.assume_identity(identity)


async def clock_error_s(guest: Guest) -> float:
    """Return how far the guest's clock is, at least, from the time in which it was asked."""
    asked_at_s = SystemClock().now().timestamp()
    _code, said = await run(guest, "date +%s.%N")
    told_at_s = SystemClock().now().timestamp()
    return max(asked_at_s - float(said), float(said) - told_at_s, 0.0)


@dataclass
class Bench:
    """Figures of a run, printed at its end."""

    rows: list[str] = field(default_factory=list)

    async def timed(self, what: str, work: Awaitable[object]) -> object:
        began = asyncio.get_running_loop().time()
        result = await work
        took_ms = (asyncio.get_running_loop().time() - began) * 1000
        pause = getattr(result, "pause_s", None)
        size = getattr(result, "size_bytes", None)
        self.rows.append(
            f"{what}: {took_ms:.0f} ms"
            + (f", pause {pause * 1000:.0f} ms" if pause is not None else "")
            + (f", {size >> 20} MiB" if size is not None else "")
        )
        return result


Load = Callable[[str, str], Awaitable[QemuMachine]]


@pytest.fixture
async def load(hypervisor: QemuHypervisor, data_dir: Path) -> AsyncIterator[Load]:
    """Load snapshots into machines that are destroyed when the test ends."""
    loaded: list[QemuMachine] = []

    async def load(snapshot_id: str, owner: str) -> QemuMachine:
        machine = await hypervisor.snapshots.load(data_dir / "snapshots" / snapshot_id, owner=owner, epoch=2)
        assert isinstance(machine, QemuMachine)
        loaded.append(machine)
        return machine

    yield load
    for machine in loaded:
        await machine.destroy()


async def test_a_write_load_survives_every_order_of_saves_wakes_captures_and_forks(
    start: Start, hypervisor: QemuHypervisor, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, bench, snapshots = random.Random(SEED), Bench(), hypervisor.snapshots
    machine = await start()
    await machine.assign("sb-load", epoch=1)
    await become(machine, "sb-load", renew=False)
    await begin_load(machine.guest)
    progress = 0
    for number in range(ROUNDS):
        name = f"s{number}"
        step = chosen.choice(["hibernate", "capture", "capture", "fork", "restore"])
        if step == "hibernate":
            await bench.timed("hibernate", snapshots.save(machine, name))
            await machine.destroy()
            machine = await bench.timed("wake", load(name, "sb-load"))  # type: ignore[assignment]
            await become(machine, "sb-load", renew=False)
        else:
            await bench.timed("capture", snapshots.capture(machine, name))
        if step == "fork":
            fork = await bench.timed("fork", load(name, "sb-fork"))
            assert isinstance(fork, QemuMachine)
            await become(fork, f"sb-fork-{number}", renew=True)
            await check_load(fork.guest)
            await fork.destroy()
        if step == "restore":
            await machine.destroy()
            machine = await load(name, "sb-load")
            await become(machine, "sb-load", renew=False)
        assert await clock_error_s(machine.guest) < 2
        reached = await check_load(machine.guest)
        assert reached > progress, step
        progress = reached
    assert (await machine.guest.exec_status("load")).running
    with capsys.disabled():
        print("\n" + "\n".join(bench.rows))


async def test_processes_output_and_plugged_memory_come_back(
    start: Start, hypervisor: QemuHypervisor, load: Load
) -> None:
    machine = await start()
    assert await resized(machine, 1024) == 1024
    script = "for i in $(seq 1 400); do echo line $i; sleep 0.02; done; exit 7"
    await machine.guest.start_exec(ExecOrder("count", ["/bin/sh", "-c", script], user="root"))
    hold = "head -c 200M /dev/urandom > /dev/shm/held; md5sum /dev/shm/held > /root/sum"
    assert await run(machine.guest, hold, timeout_s=300) == (0, "")
    saved = await hypervisor.snapshots.save(machine, "held")
    assert not await machine.is_alive()
    assert saved.manifest.memory_mib == 1024
    assert saved.size_bytes < 900 << 20
    await machine.destroy()
    woken = await load("held", "sb-a")
    pieces = [piece.data async for piece in woken.guest.read_output("count")]
    assert b"".join(pieces).decode().splitlines() == [f"line {number}" for number in range(1, 401)]
    assert (await woken.guest.wait_exec("count", timeout_s=120)).exit_code == 7
    code, said = await run(woken.guest, "md5sum -c /root/sum", timeout_s=300)
    assert (code, said) == (0, "/dev/shm/held: OK\n")
    assert woken.facts.order.memory_mib == 1024
    assert await resized(woken, 1280) == 1280


async def test_forks_are_others(start: Start, hypervisor: QemuHypervisor, load: Load) -> None:
    machine = await start()
    await become(machine, "sb-parent", renew=False)
    await run(machine.guest, "mkdir -p /etc/ssh; ssh-keygen -A || true")
    await hypervisor.snapshots.capture(machine, "origin")
    script = (
        "cat /etc/machine-id; hostname; head -c 16 /dev/urandom | od -An -tx1; python3 -c '"
        "import os, ssl, uuid; print(os.urandom(16).hex()); print(ssl.RAND_bytes(16).hex(), uuid.uuid4())'"
    )
    said = [(await run(machine.guest, script))[1].split("\n")]
    for number in range(4):
        fork = await load("origin", f"sb-fork-{number}")
        await become(fork, f"sb-fork-{number}", renew=True)
        said.append((await run(fork.guest, script))[1].split("\n"))
        assert await clock_error_s(fork.guest) < 2
    for values in zip(*said, strict=True):
        assert len(set(values)) == len(said) or set(values) == {""}, values


async def test_a_capture_is_of_one_instant_and_later_writes_are_not_in_it(
    start: Start, hypervisor: QemuHypervisor, load: Load
) -> None:
    machine = await start()
    await run(machine.guest, "echo before > /root/state; echo before > /workspace/state; sync")
    await hypervisor.snapshots.capture(machine, "before")
    await run(machine.guest, "echo after > /root/state; echo after > /workspace/state; sync")
    await hypervisor.snapshots.capture(machine, "after")
    for name in ("before", "after"):
        loaded = await load(name, "sb-x")
        script = "echo 3 > /proc/sys/vm/drop_caches; cat /root/state /workspace/state"
        assert await run(loaded.guest, script) == (0, f"{name}\n{name}\n")
    assert await hypervisor.snapshots.drop("before")
    assert await run(machine.guest, "cat /root/state; echo ok > /root/new; cat /root/new") == (
        0,
        "after\nok\n",
    )


async def test_long_chains_are_made_short_and_lose_nothing(
    start: Start, hypervisor: QemuHypervisor, load: Load
) -> None:
    machine = await start()
    count = chains.LAYERS_MAX + 2
    for number in range(count):
        await run(machine.guest, f"echo {number} > /root/f{number}; echo {number} > /workspace/f{number}")
        await hypervisor.snapshots.capture(machine, f"c{number}")
    assert machine.manifest.root is not None
    assert len(machine.manifest.root.layers) < chains.LAYERS_MAX
    await hypervisor.snapshots.save(machine, "end")
    await machine.destroy()
    woken = await load("end", "sb-x")
    script = "echo 3 > /proc/sys/vm/drop_caches; cat /root/f? /workspace/f?"
    expected = "".join(f"{number}\n" for number in range(10)) * 2
    assert await run(woken.guest, script) == (0, expected)
    first = await load("c0", "sb-y")
    assert await run(first.guest, "ls /root") == (0, "f0\n")


def do_harm(directory: Path, size: int, harm: str) -> None:
    """Damage a snapshot."""
    memory = directory / "memory"
    if harm == "bytes":
        with open(memory, "r+b") as file:
            file.seek(size // 2)
            file.write(b"x")
    elif harm == "missing":
        memory.unlink()
    elif harm == "short":
        with open(memory, "r+b") as file:
            file.truncate(1 << 20)
    else:
        (directory / "manifest.json").write_text("{")


@pytest.mark.parametrize("harm", ["bytes", "missing", "short", "manifest"])
async def test_a_damaged_snapshot_is_refused_and_kept(
    start: Start, hypervisor: QemuHypervisor, load: Load, data_dir: Path, harm: str
) -> None:
    machine = await start()
    saved = await hypervisor.snapshots.save(machine, "s")
    await machine.destroy()
    do_harm(saved.directory, saved.manifest.files["memory"].size, harm)
    with pytest.raises(SnapshotUnusable) as refused:
        await load("s", "sb-x")
    assert refused.value.message
    assert saved.directory.is_dir()
    assert await hypervisor.sweep() == []


async def test_a_guest_that_does_not_answer_is_not_saved(start: Start, hypervisor: QemuHypervisor) -> None:
    machine = await start()
    await machine.monitor.execute("stop")
    assert machine.sessions is not None
    guest, machine.sessions.guest = machine.sessions.guest, None
    with pytest.raises(GuestUnresponsive):
        await hypervisor.snapshots.save(machine, "never")
    machine.sessions.guest = guest
    await machine.monitor.execute("cont")
    assert hypervisor.snapshots.find("never") is None


POINTS = ["save.stopped", "save.written", "capture.stopped", "capture.written"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_failure_at_any_point_leaves_the_guest_running_and_nothing_else(
    start: Start, hypervisor: QemuHypervisor, data_dir: Path, load: Load, point: str
) -> None:
    machine = await start()

    async def fail() -> None:
        raise HypervisorFailed("the test said so")

    hypervisor.faults.actions[point] = fail
    verb = hypervisor.snapshots.save if point.startswith("save") else hypervisor.snapshots.capture
    with pytest.raises(HypervisorFailed, match="the test said so"):
        await verb(machine, "s")
    hypervisor.faults.actions.clear()
    assert list((data_dir / "snapshots").iterdir()) == []
    assert await run(machine.guest, "echo alive > /root/x; sync; cat /root/x") == (0, "alive\n")
    await hypervisor.snapshots.save(machine, "s")
    await machine.destroy()
    woken = await load("s", "sb-x")
    assert await run(woken.guest, "cat /root/x") == (0, "alive\n")


@pytest.mark.parametrize("point", ["load.linked", "load.answered"])
async def test_a_load_that_fails_leaves_nothing_and_the_snapshot_as_it_was(
    start: Start, hypervisor: QemuHypervisor, load: Load, data_dir: Path, point: str
) -> None:
    machine = await start()
    await hypervisor.snapshots.save(machine, "s")
    await machine.destroy()

    async def fail() -> None:
        raise HypervisorFailed("the test said so")

    hypervisor.faults.actions[point] = fail
    with pytest.raises(HypervisorFailed, match="the test said so"):
        await load("s", "sb-x")
    hypervisor.faults.actions.clear()
    assert list((data_dir / "machines").iterdir()) == []
    assert await hypervisor.sweep() == []
    assert (await run((await load("s", "sb-x")).guest, "echo ok")) == (0, "ok\n")


@contextmanager
def small_disk(at: Path, *, mib: int) -> Iterator[None]:
    """Mount a memory file system of a few MiB at `at`."""
    at.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


async def test_a_full_host_disk_fails_the_save_and_the_guest_goes_on(
    data_dir: Path, template_dir: Path, image: ImageFiles
) -> None:
    with small_disk(data_dir / "small", mib=60):
        engine, network = make_hypervisor(data_dir / "small", template_dir, image)
        await engine.prepare()
        try:
            await _fill_the_disk(engine, data_dir / "small")
        finally:
            for left in await engine.adopt():
                await left.destroy()
            await engine.sweep()
            await network.withdraw()


async def _fill_the_disk(engine: QemuHypervisor, data_dir: Path) -> None:
    machine = await engine.clone(ORDER_SMALL)
    assert isinstance(machine, QemuMachine)
    for verb in (engine.snapshots.save, engine.snapshots.capture):
        with pytest.raises(HypervisorFailed) as failed:
            await verb(machine, "s")
        assert "space" in failed.value.message.lower(), failed.value.message
        assert list((data_dir / "snapshots").iterdir()) == []
        assert await run(machine.guest, "echo ok > /root/x; sync; cat /root/x") == (0, "ok\n")
    await machine.destroy()


async def test_a_worker_that_dies_after_the_snapshot_has_its_name_never_runs_the_guest_again(
    data_dir: Path, template_dir: Path, image: ImageFiles
) -> None:
    engine, network = make_hypervisor(data_dir, template_dir, image)
    await engine.prepare()
    await _die_and_adopt(engine, network, data_dir, (template_dir, image))


async def _die_and_adopt(
    engine: QemuHypervisor, network: NamespaceNetwork, data_dir: Path, parts: tuple[Path, ImageFiles]
) -> None:
    machine = await engine.clone(ORDER_SMALL)
    assert isinstance(machine, QemuMachine)
    await machine.assign("sb-a", epoch=1)
    await run(machine.guest, "echo kept > /root/x")
    reached = asyncio.Event()

    async def die() -> None:
        reached.set()
        raise HypervisorFailed("dead")

    engine.faults.actions["save.published"] = die
    with pytest.raises(HypervisorFailed, match="dead"):
        await engine.snapshots.save(machine, "s")
    assert await machine.is_alive()
    await machine.release()
    successor, _network = make_hypervisor(data_dir, *parts)
    try:
        assert await successor.adopt() == []
        assert not await machine.is_alive()
        await successor.prepare()
        woken = await successor.snapshots.load(data_dir / "snapshots" / "s", owner="sb-a", epoch=2)
        assert await run(woken.guest, "cat /root/x") == (0, "kept\n")
        await woken.destroy()
    finally:
        for left in await successor.adopt():
            await left.destroy()
        await successor.sweep()
        await network.withdraw()


@pytest.mark.parametrize("point", ["save.stopped", "save.written", "capture.stopped"])
async def test_a_worker_that_dies_while_it_saves_leaves_a_guest_that_its_successor_resumes(
    data_dir: Path, template_dir: Path, image: ImageFiles, point: str
) -> None:
    engine, network = make_hypervisor(data_dir, template_dir, image)
    await engine.prepare()
    machine = await engine.clone(ORDER_SMALL)
    assert isinstance(machine, QemuMachine)
    await machine.assign("sb-a", epoch=1)

    async def die() -> None:
        await machine.release()  # from here on this process can do nothing for the guest
        raise HypervisorFailed("dead")

    engine.faults.actions[point] = die
    verb = engine.snapshots.save if point.startswith("save") else engine.snapshots.capture
    with pytest.raises(HypervisorFailed):
        await verb(machine, "s")
    (data_dir / "snapshots" / ".partial-left").mkdir()
    successor, _network = make_hypervisor(data_dir, template_dir, image)
    try:
        (found,) = await successor.adopt()
        assert await run(found.guest, "echo alive > /root/x; cat /root/x") == (0, "alive\n")
        assert list((data_dir / "snapshots").iterdir()) == []
        await successor.prepare()
        await successor.snapshots.save(found, "s")
        await found.destroy()
        woken = await successor.snapshots.load(data_dir / "snapshots" / "s", owner="sb-a", epoch=2)
        assert await run(woken.guest, "cat /root/x") == (0, "alive\n")
        await woken.destroy()
    finally:
        for left in await successor.adopt():
            await left.destroy()
        await successor.sweep()
        await network.withdraw()
