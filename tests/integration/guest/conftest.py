"""A real agent as a process of this host, and the real adapter."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.ports.guest import ExecOrder, ExecStatus

SOURCE = Path(__file__).parents[3] / "src"
CGROUP_MOUNTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


@dataclass
class AgentProcess:
    """The agent and where it works."""

    process: asyncio.subprocess.Process
    socket: Path
    home: Path

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def children(self) -> list[int]:
        """Return its child processes, zombies included."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path | None]:
    """A cgroup v2 directory for the agent's execs, None where this host lets us make none."""
    mount = next((path for path in CGROUP_MOUNTS if (path / "cgroup.procs").exists()), None)
    if mount is None or os.getuid() != 0:
        yield None
        return
    path = mount / f"sandfleet-test-{os.getpid()}-{tmp_path.name}"
    yield path
    for child in [*path.glob("*/"), path]:
        (child / "cgroup.kill").write_text("1")
        _remove(child)


def _remove(directory: Path) -> None:
    """Remove a cgroup whose processes are dying."""
    for _ in range(1500):
        try:
            directory.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"{directory} stays")


@pytest.fixture
async def agent(tmp_path: Path, cgroup: Path | None) -> AsyncIterator[AgentProcess]:
    """A running agent that changes nothing of the host."""
    home = tmp_path / "home"
    home.mkdir()
    path = tmp_path / "agent.sock"
    argv = [sys.executable, "-m", "sandfleet.agent", "--socket", str(path), "--not-init", "--keep-user"]
    argv += ["--home", str(home), "--workspace", str(tmp_path / "workspace")]
    argv += [] if cgroup is None else ["--cgroup", str(cgroup)]
    process = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, "PYTHONPATH": str(SOURCE)}, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    assert b"serving" in await asyncio.wait_for(process.stderr.readline(), 60)
    running = AgentProcess(process, path, home)
    yield running
    process.send_signal(signal.SIGTERM)
    _, rest = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in rest, rest.decode()


@pytest.fixture
async def guest(agent: AgentProcess) -> AsyncIterator[VirtioGuest]:
    """A session with it."""
    async with VirtioGuest(agent.socket) as session:
        yield session


@dataclass
class Done:
    """What a command left."""

    status: ExecStatus
    stdout: bytes
    stderr: bytes


@dataclass
class Commands:
    """Runs commands in the guest to their end."""

    guest: VirtioGuest

    async def start(self, *argv: str, **fields: object) -> str:
        """Start a command and return its id."""
        exec_id = f"ex-{secrets.token_hex(8)}"
        await self.guest.start_exec(ExecOrder(exec_id, argv, **fields))  # type: ignore[arg-type]
        return exec_id

    async def collect(self, exec_id: str) -> Done:
        """Read everything and the end."""
        streams = {1: bytearray(), 2: bytearray()}
        async for piece in self.guest.read_output(exec_id):
            streams[piece.stream] += piece.data
        return Done(await self.guest.wait_exec(exec_id), bytes(streams[1]), bytes(streams[2]))

    async def run(self, *argv: str, **fields: object) -> Done:
        """Start and collect."""
        return await self.collect(await self.start(*argv, **fields))

    async def shell(self, script: str, **fields: object) -> Done:
        """Run a shell script."""
        return await self.run("/bin/sh", "-c", script, **fields)


@pytest.fixture
def commands(guest: VirtioGuest) -> Commands:
    """Commands in the guest."""
    return Commands(guest)
