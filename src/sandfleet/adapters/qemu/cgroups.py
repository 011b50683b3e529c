"""Limits on what one QEMU may take from the host, under cgroup v1 or v2.

A controller that the host does not offer is left out, and `missing` says so.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.model.errors import HypervisorFailed

PARENT = "sandfleet"
CONTROLLERS = ("memory", "cpu", "pids")
CPU_PERIOD_US = 100_000
PIDS_MAX = 256
"""Threads of one QEMU: its vCPUs, its block workers, its main loop."""

_REMOVAL_TRIES = 50
_REMOVAL_PAUSE_S = 0.02
_UNIFIED = "unified"


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """What one machine's process may use."""

    memory_mib: int
    cpu_percent: int


class Cgroups:
    """The host's cgroup hierarchies, as far as they have the controllers that machines need."""

    def __init__(self, roots: Mapping[str, Path]) -> None:
        """`roots` leads from controller to hierarchy; under v2 all lead to the same one."""
        self._roots = dict(roots)
        self._is_v2 = {name: (root / "cgroup.controllers").exists() for name, root in roots.items()}

    @classmethod
    def detect(cls, mounts: Path = Path("/proc/self/mounts")) -> Cgroups:
        """Find the hierarchies that are mounted."""
        return cls(hierarchies(mounts.read_text()))

    @property
    def missing(self) -> Sequence[str]:
        """The controllers that this host does not offer."""
        return [name for name in CONTROLLERS if name not in self._roots]

    def create(self, machine_id: str, limits: CgroupLimits) -> list[Path]:
        """Create the machine's groups and return the files that take a process in."""
        for name in self._roots:
            directory = self._directory(name, machine_id)
            directory.parent.mkdir(exist_ok=True)
            if self._is_v2[name]:
                self._delegate(self._roots[name], name)
                self._delegate(directory.parent, name)
            directory.mkdir(exist_ok=True)
        self.set_limits(machine_id, limits)
        if "pids" in self._roots:
            _write(self._directory("pids", machine_id) / "pids.max", str(PIDS_MAX))
        return [directory / "cgroup.procs" for directory in self._directories(machine_id)]

    def set_limits(self, machine_id: str, limits: CgroupLimits) -> None:
        """Set the limits; memory must be raised before a guest grows and lowered after it shrank."""
        quota = str(limits.cpu_percent * CPU_PERIOD_US // 100)
        memory = str(limits.memory_mib << 20)
        if "memory" in self._roots:
            file = "memory.max" if self._is_v2["memory"] else "memory.limit_in_bytes"
            _write(self._directory("memory", machine_id) / file, memory)
        if "cpu" in self._roots:
            directory = self._directory("cpu", machine_id)
            if self._is_v2["cpu"]:
                _write(directory / "cpu.max", f"{quota} {CPU_PERIOD_US}")
            else:
                _write(directory / "cpu.cfs_period_us", str(CPU_PERIOD_US))
                _write(directory / "cpu.cfs_quota_us", quota)

    def memory_limit_mib(self, machine_id: str) -> int | None:
        """Return the machine's memory limit, None without a memory controller."""
        if "memory" not in self._roots:
            return None
        file = "memory.max" if self._is_v2["memory"] else "memory.limit_in_bytes"
        return int((self._directory("memory", machine_id) / file).read_text()) >> 20

    def kill_all(self, machine_id: str) -> None:
        """Kill every process in the machine's groups."""
        for directory in self._directories(machine_id):
            for pid in _members(directory):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    async def remove(self, machine_id: str) -> None:
        """Remove the machine's groups once they are empty. Idempotent."""
        for directory in self._directories(machine_id):
            for _ in range(_REMOVAL_TRIES):
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    await asyncio.sleep(_REMOVAL_PAUSE_S)
            else:
                raise HypervisorFailed(f"{directory} still holds processes {_members(directory)}")

    def present(self, prefix: str) -> list[str]:
        """Return the ids beginning with `prefix` that have a group."""
        found: set[str] = set()
        for root in set(self._roots.values()):
            parent = root / PARENT
            if parent.is_dir():
                found.update(child.name for child in parent.iterdir() if child.name.startswith(prefix))
        return sorted(found)

    def _directory(self, controller: str, machine_id: str) -> Path:
        return self._roots[controller] / PARENT / machine_id

    def _directories(self, machine_id: str) -> list[Path]:
        return [root / PARENT / machine_id for root in dict.fromkeys(self._roots.values())]

    @staticmethod
    def _delegate(directory: Path, controller: str) -> None:
        control = directory / "cgroup.subtree_control"
        if controller not in control.read_text().split():
            _write(control, f"+{controller}")


def hierarchies(mounts: str) -> dict[str, Path]:
    """Return where each controller that machines need is mounted, from the text of a mounts file."""
    found: dict[str, Path] = {}
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 4 or words[2] not in ("cgroup", "cgroup2"):
            continue
        point = Path(words[1])
        offered = _offered(point) if words[2] == "cgroup2" else words[3].split(",")
        for name in CONTROLLERS:
            if name in offered:
                found.setdefault(name, point)
    return found


def _offered(point: Path) -> list[str]:
    try:
        return (point / "cgroup.controllers").read_text().split()
    except OSError:
        return []


def _members(directory: Path) -> list[int]:
    try:
        return [int(word) for word in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        raise HypervisorFailed(f"{path} does not take {value}: {error}") from error
