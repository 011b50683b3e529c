"""The end of a guest: everybody is asked, then killed, disks are written, power off."""

from __future__ import annotations

import contextlib
import os
import signal

from sandfleet.agent.console import say, say_exception
from sandfleet.agent.context import Agent
from sandfleet.agent.syscalls import MS_RDONLY, MS_REMOUNT, mount
from sandfleet.agent.syscalls import power_off as power_off_now

ASKED_S = 1.0


def power_off(agent: Agent) -> None:
    """Power off cleanly, soon."""
    say("powering off")
    if agent.is_init:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGTERM)  # everybody but us: the first process is exempt
    agent.loop.call_later(ASKED_S, lambda: _finish(agent))


def _finish(agent: Agent) -> None:
    agent.execs.end_all()
    if agent.cgroups is not None:
        agent.cgroups.kill_all()
    os.sync()
    for target in ("/home/sandbox", "/workspace", "/run/sandfleet/data", "/"):
        try:
            mount("", target, flags=MS_REMOUNT | MS_RDONLY)
        except OSError:
            continue
    try:
        power_off_now()
    except OSError:
        say_exception("power off")
