"""Whatever happens, a host that has destroyed its machines is as it was before them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.vm.conftest import ORDER, Start, run
from tests.waiting import eventually

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.adapters.qemu import chains
from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.template import STATE_FILE
from sandfleet.model.errors import GuestUnresponsive, HypervisorFailed, NotFound, SizeOutOfRange
from sandfleet.ports.network import NetworkSeat


def census(hypervisor: QemuHypervisor) -> dict[str, list[str]]:
    """Return everything on this host that carries the engine's tag, and this process's descriptors."""
    host = hypervisor._host
    tag = host.config.tag
    machines = host.config.machines_dir
    return {
        "directories": sorted(os.listdir(machines)) if machines.exists() else [],
        "namespaces": sorted(name for name in os.listdir("/run/netns") if name.startswith(f"sf-{tag}")),
        "links": sorted(name for name in os.listdir("/sys/class/net") if name.startswith(f"sf{tag}")),
        "groups": host.cgroups.present(tag),
        "processes": _processes(tag),
        "descriptors": _descriptors(),
        "slots": sorted(str(slot) for slot in host.slots.taken),
    }


async def test_create_and_destroy_leave_nothing(hypervisor: QemuHypervisor) -> None:
    before = census(hypervisor)
    machines = [await hypervisor.clone(ORDER) for _ in range(3)]
    during = census(hypervisor)
    assert [len(during[kind]) for kind in ("directories", "namespaces", "links", "processes")] == [3] * 4
    async with asyncio.TaskGroup() as together:
        for machine in machines:
            together.create_task(machine.destroy())
    await machines[0].destroy()
    await eventually(lambda: census(hypervisor) == before, what="nothing to be left")


@pytest.mark.parametrize("seconds", [0.002, 0.005, 0.01, 0.03, 0.08, 0.15, 0.3])
async def test_a_clone_that_is_cancelled_leaves_nothing(hypervisor: QemuHypervisor, seconds: float) -> None:
    before = census(hypervisor)
    try:
        async with asyncio.timeout(seconds):
            machine = await hypervisor.clone(ORDER)
        await machine.destroy()
    except TimeoutError:
        pass
    await eventually(lambda: census(hypervisor) == before, what="nothing to be left")


async def test_a_clone_whose_agent_does_not_answer_leaves_nothing(
    hypervisor: QemuHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_socket: Path) -> VirtioGuest:
        raise GuestUnresponsive("nobody there")

    before = census(hypervisor)
    monkeypatch.setattr(hypervisor._host, "guests", silent)
    with pytest.raises(GuestUnresponsive):
        await hypervisor.clone(ORDER)
    await eventually(lambda: census(hypervisor) == before, what="nothing to be left")


@pytest.mark.parametrize("is_network_slow", [False, True])
async def test_a_clone_that_qemu_refuses_says_what_qemu_said_and_leaves_nothing(
    hypervisor: QemuHypervisor, data_dir: Path, monkeypatch: pytest.MonkeyPatch, *, is_network_slow: bool
) -> None:
    network = hypervisor._host.network
    connect = network.connect

    async def connect_late(seat: NetworkSeat, *, enabled: bool) -> None:
        tag = hypervisor._host.config.tag
        await eventually(lambda: not _processes(tag), what="QEMU to end")
        await connect(seat, enabled=enabled)

    if is_network_slow:
        monkeypatch.setattr(network, "connect", connect_late)
    (key, template), *_ = hypervisor._templates.items()
    broken = data_dir / "broken"
    broken.mkdir()
    for file in template.directory.iterdir():
        (broken / file.name).symlink_to(file)
    (broken / STATE_FILE).unlink()
    (broken / STATE_FILE).write_bytes(template.file(STATE_FILE).read_bytes()[:1000])
    hypervisor._templates[key] = replace(template, directory=broken)
    before = census(hypervisor)
    with pytest.raises(HypervisorFailed, match="load"):
        await hypervisor.clone(ORDER)
    await eventually(lambda: census(hypervisor) == before, what="nothing to be left")


async def test_orders_that_no_machine_can_fill_are_refused(hypervisor: QemuHypervisor) -> None:
    with pytest.raises(NotFound):
        await hypervisor.clone(replace(ORDER, template="nonesuch"))
    with pytest.raises(SizeOutOfRange):
        await hypervisor.clone(replace(ORDER, cpu_count=64))


async def test_many_at_once_all_come_up(hypervisor: QemuHypervisor) -> None:
    before = census(hypervisor)
    async with asyncio.TaskGroup() as together:
        starting = [together.create_task(hypervisor.clone(ORDER)) for _ in range(8)]
    machines = [task.result() for task in starting]
    said = [await run(machine.guest, "echo here") for machine in machines]
    assert said == [(0, "here\n")] * 8
    for machine in machines:
        await machine.destroy()
    await eventually(lambda: census(hypervisor) == before, what="nothing to be left")


async def test_what_was_dropped_takes_no_place_on_the_disk(
    hypervisor: QemuHypervisor, start: Start, data_dir: Path
) -> None:
    """QEMU keeps what it was once given open by itself, and with it the bytes of files that have no name."""
    machine = await start()
    for name in ("one", "two"):
        await hypervisor.snapshots.capture(machine, name)
    loaded = await hypervisor.snapshots.load(data_dir / "snapshots" / "two", owner="sb-two", epoch=1)
    try:
        await chains.shorten(hypervisor._host, machine, layers_max=1)
        for name in ("one", "two"):
            assert await hypervisor.snapshots.drop(name)
        for one in (machine, loaded):
            assert [target for target in _open_files(one.facts.pid) if "deleted" in target] == []
        assert await run(machine.guest, "echo a >/workspace/a; sync; cat /workspace/a") == (0, "a\n")
        assert await run(loaded.guest, "echo here") == (0, "here\n")
    finally:
        await loaded.destroy()


def _open_files(pid: int) -> list[str]:
    directory = f"/proc/{pid}/fd"
    return [os.readlink(f"{directory}/{name}") for name in os.listdir(directory)]


def _processes(tag: str) -> list[str]:
    found: list[str] = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes() if name.isdigit() else b""
        except OSError:
            continue
        if b"qemu-system" in words and f"\0{tag}".encode() in words:
            found.append(name)
    return sorted(found)


def _descriptors() -> list[str]:
    """Return what this process holds open, by target; anonymous ones by kind."""
    targets: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        targets.append(target.split(":")[0] if ":[" in target else target)
    return sorted(target for target in targets if not target.startswith("/proc/"))
