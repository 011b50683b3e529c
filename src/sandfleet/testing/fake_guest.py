"""A guest in memory (port: `ports.guest.Guest`): files in a dictionary, execs by a program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.model.errors import BadRequest, GuestUnresponsive, NotFound, PortClosed
from sandfleet.ports.clock import Clock
from sandfleet.ports.guest import (
    ExecAttachment,
    ExecOrder,
    ExecOutput,
    ExecPlace,
    ExecStatus,
    FileEntry,
    GuestIdentity,
    GuestStats,
    StdinPlace,
    TerminalSize,
)
from sandfleet.testing.fake_exec import FakeExec
from sandfleet.testing.fake_files import FakeFiles
from sandfleet.testing.fake_ports import connection_to
from sandfleet.testing.fake_programs import Program, small_shell
from sandfleet.testing.faults import Faults
from sandfleet.wire.agent_messages import WARM_EXEC_PREFIX


class FakeGuest:
    """The inside of one fake VM. It lives as long as its machine, whoever talks to it."""

    def __init__(
        self,
        *,
        tasks: TaskGroup,
        clock: Clock,
        faults: Faults | None = None,
        program: Program = small_shell,
    ) -> None:
        self.files = FakeFiles()
        self.identities: list[GuestIdentity] = []
        self.limits: dict[str, int] = {}
        self.disk_used_share = 0.001
        self.memory_mib = 1024
        self.memory_used_mib = 128
        self.runs: list[ExecOrder] = []
        """Every exec that really ran, in order."""
        self.is_disk_grown = False
        self._tasks = tasks
        self._clock = clock
        self._faults = faults or Faults()
        self._program = program
        self._execs: dict[str, FakeExec] = {}
        self._connections: dict[str, FakeExec] = {}
        self.ports: dict[int, int] = {}
        """Ports that are open, and the local ports that stand for them."""
        self._is_lost = False

    async def lose(self) -> None:
        """The VM ends: nothing answers any more."""
        self._is_lost = True
        for exec_ in (*self._execs.values(), *self._connections.values()):
            exec_.kill(9)
            await exec_.lose()

    async def ping(self) -> None:
        """Answer."""
        await self._at("ping")

    async def assume_identity(self, identity: GuestIdentity) -> None:
        """Remember it, and forget what ran before it was anybody's."""
        await self._at("assume_identity")
        self.identities.append(identity)
        for exec_id in [one for one in self._execs if one.startswith(WARM_EXEC_PREFIX)]:
            self._execs.pop(exec_id).kill(9)

    async def rehearse(self, identity: GuestIdentity) -> None:
        """Refuse it in a guest that is somebody."""
        await self._at("rehearse")
        if self.identities:
            raise BadRequest("this guest is somebody already")

    async def set_clock(self, wall_clock_s: float) -> None:
        """Accept it."""
        await self._at("set_clock")

    async def set_limits(self, *, memory_mib: int, cpu_percent: int, pids_max: int) -> None:
        """Remember them."""
        await self._at("set_limits")
        self.limits = {"memory_mib": memory_mib, "cpu_percent": cpu_percent, "pids_max": pids_max}

    async def grow_disk(self) -> None:
        """Remember it."""
        await self._at("grow_disk")
        self.is_disk_grown = True

    async def start_exec(self, order: ExecOrder) -> ExecStatus:
        """Start it, once per id. What fails at once is refused."""
        await self._at("start_exec")
        known = self._execs.get(order.exec_id)
        if known is not None:
            return known.status()
        exec_ = FakeExec(order, self._clock)
        self._execs[order.exec_id] = exec_
        self.runs.append(order)
        envs = dict(self.identities[-1].envs) if self.identities else {}
        self._tasks.create_task(exec_.run(self._program, envs))
        for _ in range(3):  # lets a program that does not exist say so
            await asyncio.sleep(0)
        if exec_.refusal is not None:
            del self._execs[order.exec_id]
            raise exec_.refusal
        return exec_.status()

    async def read_output(self, exec_id: str, *, offset: int = 0) -> AsyncIterator[ExecOutput]:
        """Yield output until the end."""
        await self._at("read_output")
        async for piece in self._known(exec_id).read(offset):
            yield piece

    @asynccontextmanager
    async def attach(self, exec_id: str, place: ExecPlace) -> AsyncIterator[ExecAttachment]:
        """Be one of its clients."""
        await self._at("attach")
        attachment = self._known(exec_id).attach(place)
        try:
            yield attachment
        finally:
            await attachment.leave()

    async def connect_port(self, connection_id: str, port: int) -> None:
        """Connect to the local port that stands for the guest's, once per id."""
        await self._at("connect_port")
        if connection_id in self._connections:
            return
        if port not in self.ports:
            raise PortClosed(f"nothing listens on port {port}")
        order = ExecOrder(connection_id, (f"port {port}",), stdin=True, is_session=True)
        program = await connection_to(self.ports[port])
        connection = FakeExec(order, self._clock)
        self._connections[connection_id] = connection
        self._tasks.create_task(connection.run(program, {}))

    async def resize_exec(self, exec_id: str, size: TerminalSize) -> None:
        """Remember the size."""
        await self._at("resize_exec")
        self._known(exec_id).sizes.append(size)

    async def wait_exec(self, exec_id: str, *, timeout_s: float | None = None) -> ExecStatus:
        """Wait for the end, or `timeout_s`."""
        await self._at("wait_exec")
        exec_ = self._known(exec_id)
        try:
            async with asyncio.timeout(timeout_s):
                await exec_.ended()
        except TimeoutError:
            return exec_.status()
        return exec_.status()

    async def exec_status(self, exec_id: str) -> ExecStatus:
        """Return how it stands."""
        await self._at("exec_status")
        return self._known(exec_id).status()

    async def list_execs(self) -> Sequence[ExecStatus]:
        """Return all."""
        await self._at("list_execs")
        return [exec_.status() for exec_ in self._execs.values()]

    async def write_stdin(
        self, exec_id: str, data: bytes, *, end: bool = False, place: StdinPlace | None = None
    ) -> None:
        """Give it bytes."""
        await self._at("write_stdin")
        await self._known(exec_id).take_stdin(data, end=end, place=place)

    async def kill_exec(self, exec_id: str, *, signal: int = 9) -> None:
        """End it."""
        await self._at("kill_exec")
        self._known(exec_id).kill(signal)

    async def stat(self, path: str) -> FileEntry:
        """Return what stands there."""
        await self._at("stat")
        return self.files.stat(path)

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Return the entries."""
        await self._at("list_directory")
        return self.files.list_directory(path)

    async def make_directory(self, path: str) -> None:
        """Like `mkdir -p`."""
        await self._at("make_directory")
        self.files.make_directory(path)

    async def delete(self, path: str) -> None:
        """Remove it."""
        await self._at("delete")
        self.files.delete(path)

    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        """Yield the content."""
        await self._at("read_file")
        async for chunk in self.files.read(path):
            self._require_alive()
            yield chunk

    async def write_file(self, path: str, chunks: AsyncIterable[bytes]) -> int:
        """Replace the file at the end."""
        await self._at("write_file")
        return await self.files.write(path, chunks)

    async def memory_total(self, *, at_least: int, wait_s: float) -> int:
        """Return its memory, whether that is enough or not."""
        await self._at("memory_total")
        return self.memory_mib << 20

    async def stats(self) -> GuestStats:
        """Return plausible numbers."""
        await self._at("stats")
        return GuestStats(
            memory_total=self.memory_mib << 20,
            memory_used=self.memory_used_mib << 20,
            memory_limit=self.limits.get("memory_mib", 1024) << 20,
            cpu_percent=0.0,
            pids=2,
            net_input=0,
            net_output=0,
            disk_total=20 * 2**30,
            disk_used=int(self.disk_used_share * 20 * 2**30),
            uptime_s=1.0,
        )

    async def quiesce(self) -> None:
        """Accept it."""
        await self._at("quiesce")

    async def shut_down(self) -> None:
        """Accept it."""
        await self._at("shut_down")

    async def close(self) -> None:
        """Nothing to end."""

    async def _at(self, step: str) -> None:
        self._require_alive()
        await self._faults.at(step)
        self._require_alive()

    def _require_alive(self) -> None:
        if self._is_lost:
            raise GuestUnresponsive("agent unresponsive: the VM has gone")

    def _known(self, exec_id: str) -> FakeExec:
        found = self._execs.get(exec_id) or self._connections.get(exec_id)
        if found is None:
            raise NotFound(f"no exec {exec_id}")
        return found
