"""What a fleet holds on this host and in its database: counted before and after, so that leaks show.

A machine counts as the fleet's when its QEMU works below the fleet's directory. Namespaces, links and
cgroups carry the machine's id; one that appeared since the first count and belongs to no living
machine of anybody is a leak.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from tests.acceptance.live_fleet import LiveFleet

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_MACHINE_NAME = re.compile(r"^(?:sf-|sf)(?P<id>[a-z0-9]{6,12})$")


@dataclass(frozen=True, slots=True)
class Census:
    """One count. Sets name what is there, so that a failing comparison says what was left behind."""

    qemus: frozenset[int]
    namespaces: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    reservations: frozenset[str]
    open_operations: frozenset[str]
    living: frozenset[str]


def take_census(fleet: LiveFleet) -> Census:
    """Count everything now."""
    database = {name: _rows(fleet, query) for name, query in _QUERIES.items()}
    return Census(
        qemus=frozenset(process.pid for process in qemu_processes(fleet)),
        namespaces=frozenset(name for name in _namespaces() if _MACHINE_NAME.match(name)),
        links=frozenset(link for link in os.listdir("/sys/class/net") if _MACHINE_NAME.match(link)),
        cgroups=frozenset(_cgroups()),
        **database,
    )


def leaks(before: Census, after: Census, fleet: LiveFleet) -> dict[str, list[str]]:
    """Return what stands in `after`, did not stand in `before`, and belongs to nothing that lives."""
    owners = " ".join(" ".join(_command(process)) for process in _all_qemus())
    found = {
        "namespaces": _unowned(after.namespaces - before.namespaces, owners),
        "links": _unowned(after.links - before.links, owners),
        "cgroups": _unowned(after.cgroups - before.cgroups, owners),
        "reservations": sorted(after.reservations - before.reservations),
        "operations": sorted(after.open_operations - before.open_operations),
        "sandboxes": sorted(after.living - before.living),
        "machines": _surplus(fleet, after, before),
    }
    return {kind: names for kind, names in found.items() if names}


def wait_for_no_leak(before: Census, fleet: LiveFleet, *, timeout_s: float = 45.0) -> None:
    """Return when everything that was made since `before` is gone again; fail and name it otherwise."""
    deadline = time.monotonic() + timeout_s
    while remains := leaks(before, take_census(fleet), fleet):
        assert time.monotonic() < deadline, f"left behind after {timeout_s:.0f} s: {json.dumps(remains)}"
        time.sleep(0.5)


def qemu_processes(fleet: LiveFleet) -> list[psutil.Process]:
    """Return the QEMU processes of this fleet."""
    mine = str(fleet.data_dir)
    return [p for p in _all_qemus() if mine in " ".join(_command(p)) or mine in _cwd(p)]


def machine_directories(fleet: LiveFleet) -> list[Path]:
    """Return the directories of machines below the fleet's directory: those that hold a manifest."""
    return sorted(path.parent for path in fleet.data_dir.rglob("machine.json"))


def in_own_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` to its end whether or not the caller itself runs inside an event loop."""
    answer: list[Any] = []
    runner = threading.Thread(target=lambda: answer.append(asyncio.run(work)))
    runner.start()
    runner.join()
    assert answer, "the database could not be read"
    return answer[0]


def worker_memory_mib(fleet: LiveFleet) -> int:
    """Return what the fleet's one worker has to promise."""
    (total,) = _rows(fleet, "SELECT total_memory_mib FROM workers")
    return int(total)


def _rows(fleet: LiveFleet, query: str) -> frozenset[Any]:
    return frozenset(in_own_loop(_fetch(fleet.setting("postgres_url"), query)))


async def _fetch(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg://", "postgresql://"))
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


_QUERIES = {
    "reservations": "SELECT sandbox_id FROM reservations",
    "open_operations": (
        "SELECT kind || ' ' || sandbox_id || ' at ' || step FROM operations WHERE state = 'running'"
    ),
    "living": "SELECT id || ' ' || state FROM sandboxes WHERE state NOT IN ('stopped', 'failed', 'error')",
}


def _surplus(fleet: LiveFleet, after: Census, before: Census) -> list[str]:
    """Name the machines beyond those that were there before: the warm pool may refill, never exceed it."""
    allowed = max(len(before.qemus), int(_status_number(fleet, "warm_pool_size", default=4)))
    return [f"qemu {pid}" for pid in sorted(after.qemus)[allowed:]]


def _status_number(fleet: LiveFleet, name: str, *, default: int) -> int:
    try:
        return int(fleet.setting(name))
    except LookupError:
        return default


def _unowned(names: frozenset[str], owners: str) -> list[str]:
    return sorted(name for name in names if _machine_id(name) not in owners)


def _machine_id(name: str) -> str:
    found = _MACHINE_NAME.match(name)
    return found["id"] if found else name


def _all_qemus() -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["name"]) if (p.info["name"] or "").startswith("qemu-system")]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _cwd(process: psutil.Process) -> str:
    try:
        return str(process.cwd())
    except psutil.Error:
        return ""


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def _cgroups() -> set[str]:
    """Return the names of cgroups that are called after a machine, in whatever hierarchy they stand."""
    found: set[str] = set()
    for folder in _CGROUP_ROOT.glob("**/sandfleet*/"):
        found |= {child.name for child in folder.rglob("*") if child.is_dir()}
    return found
