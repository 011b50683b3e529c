"""Measure the guest."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sandfleet.agent.context import Agent
from sandfleet.agent.network import LINK
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields

MEMORY_WAIT_S_MAX = 5.0
MEMORY_LOOK_S = 0.005


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with what is used and what there is, or with `memory_only` how much memory there is."""
    if fields.flag("memory_only", False):
        _wait_for_memory(
            agent,
            stream,
            at_least=fields.integer("at_least"),
            until=agent.loop.now() + min(fields.number("wait_s"), MEMORY_WAIT_S_MAX),
        )
        return
    memory = _memory()
    net_input, net_output = _network()
    disk_used, disk_total = fuller_disk(agent.places.home, agent.places.root)
    stream.finish(
        {
            "memory_total": memory["MemTotal"],
            "memory_used": _memory_used(agent) or memory["MemTotal"] - memory["MemAvailable"],
            "memory_limit": _cgroup_number(agent, "memory.max") or memory["MemTotal"],
            "cpu_percent": _cpu_percent(agent),
            "pids": _cgroup_number(agent, "pids.current") or 0,
            "net_input": net_input,
            "net_output": net_output,
            "disk_total": disk_total,
            "disk_used": disk_used,
            "uptime_s": float(Path("/proc/uptime").read_text().split()[0]),
        }
    )


def fuller_disk(*paths: str) -> tuple[int, int]:
    """Return used and all bytes of the disk that has the least left: a guest needs room on each."""
    disks = [os.statvfs(path) for path in paths]
    sizes = [((one.f_blocks - one.f_bfree) * one.f_frsize, one.f_blocks * one.f_frsize) for one in disks]
    return max(sizes, key=lambda size: size[0] / max(1, size[1]))


def _wait_for_memory(agent: Agent, stream: Stream, *, at_least: int, until: float) -> None:
    """Answer when the guest has `at_least` bytes, or at `until`. To read a file would cost far more."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total >= at_least or agent.loop.now() >= until:
        stream.finish({"memory_total": total})
        return
    agent.loop.call_later(
        MEMORY_LOOK_S, lambda: _wait_for_memory(agent, stream, at_least=at_least, until=until)
    )


def _memory() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


def _network() -> tuple[int, int]:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == LINK:
            numbers = rest.split()
            return int(numbers[0]), int(numbers[8])
    return 0, 0


def _cgroup_number(agent: Agent, name: str) -> int | None:
    text = "" if agent.cgroups is None else agent.cgroups.read(name).strip()
    return int(text) if text.isdigit() else None


def _cgroup_table(agent: Agent, name: str) -> dict[str, int]:
    text = "" if agent.cgroups is None else agent.cgroups.read(name)
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def _memory_used(agent: Agent) -> int:
    """Return what user processes use, without what the kernel would give back at once."""
    used = _cgroup_number(agent, "memory.current") or 0
    return max(0, used - _cgroup_table(agent, "memory.stat").get("inactive_file", 0))


def _cpu_percent(agent: Agent) -> float:
    """Return the use since the last call."""
    used_s = _cgroup_table(agent, "cpu.stat").get("usage_usec", 0) / 1e6
    now = time.monotonic()
    before, agent.cpu_sample = agent.cpu_sample, (now, used_s)
    if before is None or now <= before[0]:
        return 0.0
    return round(max(0.0, 100 * (used_s - before[1]) / (now - before[0])), 1)
