"""A host's VMs in memory (port: `ports.hypervisor.Hypervisor`).

It stands for the host, not for a worker process: a second worker that is given
the same one finds the machines of the first by `adopt`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.clock import Clock
from sandfleet.ports.hypervisor import (
    Accelerator,
    Machine,
    MachineFacts,
    MachineOrder,
    MachineUsage,
    TemplateInfo,
)
from sandfleet.testing.fake_guest import FakeGuest
from sandfleet.testing.fake_programs import Program, small_shell
from sandfleet.testing.faults import Faults


class FakeMachine:
    """One VM of a fake host."""

    def __init__(self, host: FakeHypervisor, facts: MachineFacts, guest: FakeGuest) -> None:
        self.used = MachineUsage(cpu_s=0.0, disk_mib=0)
        self._host = host
        self._facts = facts
        self._guest = guest
        self._dead: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.metadata_port = 0
        self.memory_floor_mib = 0
        """What the guest cannot give up."""
        self.is_network_enabled = facts.order.network_enabled

    @property
    def facts(self) -> MachineFacts:
        """What the manifest says."""
        return self._facts

    @property
    def guest(self) -> FakeGuest:
        """The inside."""
        return self._guest

    @property
    def ports(self) -> dict[int, int]:
        """Ports of the guest that are open, and the local ports that stand for them."""
        return self._guest.ports

    def boot(self, guest: FakeGuest) -> None:
        """Begin a new life with the old files."""
        guest.files = self._guest.files
        self._guest = guest
        self._dead = asyncio.get_running_loop().create_future()

    def swap_guests(self, other: FakeMachine) -> None:
        """Have each other's inside: what ran here goes on there."""
        self._guest, other._guest = other._guest, self._guest

    async def crash(self, reason: str = "QEMU ended by signal 9") -> None:
        """End as a crashing QEMU does: the directory stays."""
        if not self._dead.done():
            self._dead.set_result(reason)
        await self._guest.lose()

    async def assign(self, owner: str, *, epoch: int) -> None:
        """Write the owner down."""
        await self._host.faults.at("assign")
        self._facts = replace(self._facts, owner=owner, epoch=epoch)

    async def note_restart(self, restart_id: str) -> None:
        """Remember it."""
        self._facts = replace(self._facts, restart_id=restart_id)

    async def is_alive(self) -> bool:
        """Whether it runs."""
        return not self._dead.done()

    async def wait_dead(self) -> str:
        """Return why it ended, when it has."""
        await asyncio.wait([self._dead])
        return self._dead.result()

    async def resize_memory(self, memory_mib: int) -> int:
        """Reach it at once."""
        await self._host.faults.at("resize_memory")
        reached = max(memory_mib, self.memory_floor_mib)
        self._facts = replace(self._facts, order=replace(self._facts.order, memory_mib=reached))
        self._guest.memory_mib = reached
        return reached

    async def set_cpu_count(self, cpu_count: int) -> None:
        """Have them at once."""
        self._facts = replace(self._facts, order=replace(self._facts.order, cpu_count=cpu_count))

    async def limit_cpu(self, cpu_percent: int | None) -> None:
        """Remember it."""
        self._facts = replace(self._facts, cpu_percent=cpu_percent)

    async def listen_for_metadata(self) -> socket.socket:
        """Listen on a local port, which `metadata_port` tells."""
        made = socket.create_server(("127.0.0.1", 0))
        made.setblocking(False)
        self.metadata_port = int(made.getsockname()[1])
        return made

    async def memory_used_mib(self) -> int:
        """Return what an idle clone costs."""
        return 46

    async def usage(self) -> MachineUsage:
        """Return what was spent, as tests say."""
        return self.used

    async def set_network(self, *, enabled: bool) -> None:
        """Remember it."""
        await self._host.faults.at("set_network")
        self.is_network_enabled = enabled

    async def grow_disk(self, disk_mib: int) -> None:
        """Remember it."""
        await self._host.faults.at("grow_disk")
        self._facts = replace(self._facts, order=replace(self._facts.order, disk_mib=disk_mib))

    async def destroy(self) -> None:
        """End it and remove it from the host."""
        await self._host.faults.at("destroy")
        await self.crash("destroyed")
        self._host.machines.pop(self._facts.machine_id, None)


class FakeHypervisor:
    """The fake host. Enter it once; it owns everything that runs inside its guests."""

    def __init__(self, *, clock: Clock | None = None, program: Program = small_shell) -> None:
        self.machines: dict[str, FakeMachine] = {}
        self.degraded: Sequence[str] = ()
        self.faults = Faults()
        self.leftovers: list[str] = []
        self.templates = [
            TemplateInfo(name="base", version="version-1", memory_base_mib=512, memory_block_mib=128)
        ]
        self.clones = 0
        self.restarts: list[bool] = []
        """For each restart, whether it was a clean one."""
        self._program = program
        self._clock = clock or SystemClock()
        self._tasks = TaskGroup()

    async def __aenter__(self) -> FakeHypervisor:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in list(self.machines.values()):
            await machine.crash("the host ends")
        await self._tasks.__aexit__(kind, error, trace)

    async def accelerator(self) -> Accelerator:
        """Return the fake's own."""
        return Accelerator(name="fake", reason="nothing runs here")

    async def prepare(self) -> Sequence[TemplateInfo]:
        """Return the templates."""
        await self.faults.at("prepare")
        return list(self.templates)

    async def clone(self, order: MachineOrder) -> FakeMachine:
        """Start a machine."""
        await self.faults.at("clone")
        template = next((info for info in self.templates if info.name == order.template), None)
        if template is None:
            raise HypervisorFailed(f"no template {order.template}")
        self.clones += 1
        machine_id = f"m-{self.clones:04}"
        facts = MachineFacts(
            machine_id=machine_id,
            order=order,
            template_version=template.version,
            owner=None,
            epoch=0,
            pid=self.clones,
        )
        guest = FakeGuest(tasks=self._tasks, clock=self._clock, faults=self.faults, program=self._program)
        machine = FakeMachine(self, facts, guest)
        self.machines[machine_id] = machine
        return machine

    async def restart(self, machine: Machine, *, is_clean: bool) -> None:
        """Give the machine a new inside that has the old one's files."""
        await self.faults.at("restart")
        if not isinstance(machine, FakeMachine):
            raise HypervisorFailed("this is no machine of this host")
        await machine.crash("restarted")
        guest = FakeGuest(tasks=self._tasks, clock=self._clock, faults=self.faults, program=self._program)
        machine.boot(guest)
        self.restarts.append(is_clean)

    async def adopt(self) -> Sequence[FakeMachine]:
        """Return what is on the host."""
        await self.faults.at("adopt")
        return list(self.machines.values())

    async def sweep(self) -> Sequence[str]:
        """Remove what no manifest owns."""
        await self.faults.at("sweep")
        swept, self.leftovers = self.leftovers, []
        return swept
