"""A machine boots its own disks anew: what was written stays, what ran is gone, its size comes back."""

from __future__ import annotations

import pytest
from tests.vm.conftest import Start, run
from tests.vm.test_memory import resized, total_mib

from sandfleet.adapters.qemu.hypervisor import QemuHypervisor
from sandfleet.adapters.qemu.machine import QemuMachine
from sandfleet.ports.guest import GuestIdentity


async def become(machine: QemuMachine, *, is_known: bool) -> None:
    identity = GuestIdentity(
        host_name="sb-again", seed=b"s" * 64, wall_clock_s=1_800_000_000, envs={}, is_known=is_known
    )
    await machine.guest.assume_identity(identity)


@pytest.mark.parametrize("is_clean", [True, False])
async def test_disks_identity_and_size_survive(
    start: Start, hypervisor: QemuHypervisor, *, is_clean: bool
) -> None:
    machine = await start()
    await become(machine, is_known=False)
    await machine.assign("sb-again", epoch=1)
    assert await resized(machine, 1024) == 1024
    write = "echo root > /etc/kept; echo data > /workspace/kept; touch /run/gone; sync"
    code, before = await run(machine.guest, f"{write}; cat /etc/machine-id /proc/sys/kernel/random/boot_id")
    assert code == 0
    pid = machine.facts.pid
    await hypervisor.restart(machine, is_clean=is_clean)
    await become(machine, is_known=True)
    assert machine.facts.pid != pid
    assert machine.facts.order.memory_mib == 1024
    assert machine.facts.owner == "sb-again"
    code, said = await run(machine.guest, "cat /etc/kept /workspace/kept; ls /run/gone; hostname")
    assert said.split("\n")[:2] == ["root", "data"]
    assert "No such file" in said
    assert said.rstrip().endswith("sb-again")
    _code, after = await run(machine.guest, "cat /etc/machine-id /proc/sys/kernel/random/boot_id")
    assert after.splitlines()[0] == before.splitlines()[0]
    assert after.splitlines()[1] != before.splitlines()[1]
    assert 0.88 * 1024 < await total_mib(machine) <= 1024
    assert await resized(machine, 512) == 512


async def test_a_machine_whose_qemu_died_boots_again(start: Start, hypervisor: QemuHypervisor) -> None:
    machine = await start()
    await become(machine, is_known=False)
    await run(machine.guest, "echo safe > /workspace/safe; sync")
    assert machine.sessions is not None
    machine.sessions.handle.kill()
    await machine.wait_dead()
    await hypervisor.restart(machine, is_clean=False)
    await become(machine, is_known=True)
    assert (await run(machine.guest, "cat /workspace/safe"))[1] == "safe\n"
