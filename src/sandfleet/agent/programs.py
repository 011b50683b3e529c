"""Programs that the agent runs for itself: as root, outside the users' cgroup, reaped like all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from sandfleet.agent.context import Agent
from sandfleet.agent.spawn import PATH_DEFAULT, Command, spawn

PROGRAM_S_MAX = 120.0
OUTPUT_KEPT_BYTES = 4096


def run_program(agent: Agent, argv: Sequence[str], on_end: Callable[[int, str], None]) -> None:
    """Run `argv` and call with its exit code and the end of what it wrote."""
    command = Command(
        argv=argv,
        envs={"PATH": PATH_DEFAULT, "LANG": "C.UTF-8"},
        cwd="/",
        user=None,
        cgroup_door=None,
        stdin=False,
    )
    spawned = spawn(command)
    timer = agent.loop.call_later(PROGRAM_S_MAX, lambda: os.kill(spawned.pid, signal.SIGKILL))

    def on_exit(status: int) -> None:
        timer.cancel()
        said = b"".join(_take(fd) for fd in (spawned.failure, *spawned.outputs))
        on_end(os.waitstatus_to_exitcode(status), said[-OUTPUT_KEPT_BYTES:].decode(errors="replace"))

    agent.reaper.expect(spawned.pid, on_exit)


def _take(fd: int) -> bytes:
    """Return what fits in the pipe; these programs write no more than that."""
    try:
        return os.read(fd, 64 * 1024)
    except BlockingIOError:
        return b""
    finally:
        os.close(fd)
