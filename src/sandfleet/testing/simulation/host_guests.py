"""What guests on a host say: how much of their memory they use, and what came of a command."""

from __future__ import annotations

from sandfleet.model.ids import SandboxId
from sandfleet.testing.simulation.guest_use import KEPT_MIB
from sandfleet.testing.simulation.host import Host
from sandfleet.wire.worker_messages import MemoryUse


async def echo(host: Host, sandbox_id: SandboxId, epoch: int) -> int:
    """Have a guest run a command; return the exit code."""
    host.require_open(host.serving(sandbox_id, epoch))
    return int(host.is_deaf)


async def memory_use(host: Host, sandbox_id: SandboxId, epoch: int) -> MemoryUse:
    """Return what a guest measures."""
    vm = host.serving(sandbox_id, epoch)
    host.require_open(vm)
    used_mib = min(host.used_mib(sandbox_id), vm.memory_mib - KEPT_MIB)
    return MemoryUse(mem_usage=used_mib << 20, mem_limit=(vm.memory_mib - KEPT_MIB) << 20)
