"""The fake guest is held to what the real one must do."""

from __future__ import annotations

import pytest

from sandfleet.ports.hypervisor import MachineOrder
from sandfleet.testing.conformance.guest import CHECKS, Check
from sandfleet.testing.fake_hypervisor import FakeHypervisor

ORDER = MachineOrder(template="base", memory_mib=1024, cpu_count=1, disk_mib=20480)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: Check) -> None:
    async with FakeHypervisor() as hypervisor:
        await check((await hypervisor.clone(ORDER)).guest, "/workspace")
