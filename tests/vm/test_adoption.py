"""The death of a worker process interrupts no machine, and the next process takes them over."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.vm.conftest import Start, make_hypervisor, run
from tests.vm.first_worker import EXEC_ID, LINES
from tests.vm.test_memory import resized
from tests.vm.test_snapshots import become, clock_error_s

from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.adapters.qemu.config import ImageFiles
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.adapters.qemu.manifest import STARTING, read_manifest, write_manifest
from sandfleet.model.errors import GuestUnresponsive
from sandfleet.ports.guest import Guest


def run_until_killed(data_dir: Path, template_dir: Path, image: ImageFiles) -> int:
    """Run the first worker, kill it while it reads output; return the pid of its machine's QEMU."""
    files = [image.kernel, image.initrd, image.root_disk, image.data_disk]
    words = [data_dir, template_dir, image.name, image.digest, *files]
    argv = [sys.executable, "-m", "tests.vm.first_worker", *map(str, words)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline().split()[1])
        assert worker.stdout.readline().startswith("read ")
        worker.send_signal(signal.SIGKILL)
    return pid


async def test_a_machine_outlives_its_worker_and_loses_no_output(
    data_dir: Path, template_dir: Path, image: ImageFiles
) -> None:
    pid = run_until_killed(data_dir, template_dir, image)
    os.kill(pid, 0)
    engine, network = make_hypervisor(data_dir, template_dir, image)
    try:
        (machine,) = await engine.adopt()
        facts = machine.facts
        assert (facts.owner, facts.epoch, facts.pid) == ("sb-survivor", 3, pid)
        assert await machine.is_alive()
        pieces = [piece async for piece in machine.guest.read_output(EXEC_ID)]
        said = b"".join(piece.data for piece in pieces).decode()
        assert said.splitlines() == [f"line {number}" for number in range(1, LINES + 1)]
        status = await machine.guest.wait_exec(EXEC_ID, timeout_s=120)
        assert status.exit_code == 7
        assert await engine.sweep() == []
        assert await machine.is_alive()
        assert isinstance(machine, QemuMachine)
        assert await resized(machine, 768) == 768
        await machine.destroy()
        assert await engine.adopt() == []
    finally:
        await _clear(engine, network)


async def test_an_agent_that_answers_only_after_the_adoption_is_used_then(
    data_dir: Path, template_dir: Path, image: ImageFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: Path) -> Guest:
        raise GuestUnresponsive("agent unresponsive")

    run_until_killed(data_dir, template_dir, image)
    engine, network = make_hypervisor(data_dir, template_dir, image)
    monkeypatch.setattr(engine._host, "guests", silent)
    try:
        (machine,) = await engine.adopt()
        assert await machine.is_alive()
        assert await run(machine.guest, "echo here") == (0, "here\n")
        await machine.destroy()
    finally:
        await _clear(engine, network)


async def test_a_machine_that_died_unwatched_is_reported_and_can_be_destroyed(
    data_dir: Path, template_dir: Path, image: ImageFiles
) -> None:
    pid = run_until_killed(data_dir, template_dir, image)
    os.kill(pid, signal.SIGKILL)
    engine, network = make_hypervisor(data_dir, template_dir, image)
    try:
        (machine,) = await engine.adopt()
        assert machine.facts.owner == "sb-survivor"
        assert not await machine.is_alive()
        assert await machine.wait_dead()
        await machine.destroy()
        await machine.destroy()
        assert list((data_dir / "machines").iterdir()) == []
    finally:
        await _clear(engine, network)


async def test_a_guest_that_stood_still_with_its_worker_is_told_the_time(
    start: Start, hypervisor: QemuHypervisor
) -> None:
    machine = await start()
    await become(machine, "late", renew=False)
    await machine.monitor.execute("stop")  # as a save that its worker did not live to end
    await asyncio.sleep(4)
    assert await _adopted(hypervisor, machine)
    assert await clock_error_s(machine.guest) < 2


async def test_what_a_dead_worker_had_only_begun_is_swept_away(
    start: Start, hypervisor: QemuHypervisor, data_dir: Path
) -> None:
    begun, finished = await start(), await start()
    directory = data_dir / "machines" / begun.facts.machine_id
    unfinished = msgspec.structs.replace(read_manifest(directory), state=STARTING, process=None)
    write_manifest(directory, unfinished, durable=False)
    assert [machine.facts.machine_id for machine in await _adopted(hypervisor, finished)] == [
        finished.facts.machine_id
    ]
    assert await hypervisor.sweep() == [begun.facts.machine_id]
    assert not await begun.is_alive()
    assert not directory.exists()
    assert await hypervisor.sweep() == []


async def test_nothing_of_another_fleet_on_this_host_is_touched(
    start: Start, template_dir: Path, image: ImageFiles, data_dir: Path
) -> None:
    machine = await start()
    elsewhere = data_dir / "other"
    elsewhere.mkdir()
    engine, _network = make_hypervisor(elsewhere, template_dir, image)
    assert await engine.sweep() == []
    assert await engine.adopt() == []
    assert await run(machine.guest, "echo here") == (0, "here\n")


async def _adopted(hypervisor: QemuHypervisor, machine: QemuMachine) -> list[QemuMachine]:
    """Adopt with the present sessions closed, as QEMU serves one monitor at a time; keep the new ones."""
    await machine.release()
    found = [other for other in await hypervisor.adopt() if isinstance(other, QemuMachine)]
    for other in found:
        machine.sessions = other.sessions
    return found


async def _clear(engine: QemuHypervisor, network: NamespaceNetwork) -> None:
    for machine in await engine.adopt():
        await machine.destroy()
    await engine.sweep()
    await network.withdraw()
