"""The cgroup that holds all user processes, and one in it per exec (cgroup v2).

The agent stays outside, so neither a fork bomb nor exhausted memory silences it.
"""

from __future__ import annotations

import contextlib
import os

MIB = 1024 * 1024
MEMORY_MIB_MIN = 64
"""No guest is so small that its users could not run a shell."""
PIDS_MAX_DEFAULT = 1024


class Cgroup:
    """The cgroup of one exec."""

    def __init__(self, path: str) -> None:
        self._path = path

    def open_door(self) -> int:
        """Return a descriptor; who writes "0" to it has joined."""
        return os.open(f"{self._path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def kill(self) -> None:
        """Kill everything in it, at once and without a race against forks."""
        with contextlib.suppress(FileNotFoundError):
            _write(f"{self._path}/cgroup.kill", "1")

    def remove(self) -> bool:
        """Remove it if it is empty; return whether it is gone."""
        try:
            os.rmdir(self._path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class Cgroups:
    """The tree below one directory of a mounted cgroup v2 hierarchy."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lingering: list[Cgroup] = []
        self._limits: dict[str, int] = {}

    def prepare(self) -> None:
        """Make the tree, with what controllers there are."""
        with contextlib.suppress(OSError):
            _write(f"{os.path.dirname(self._root)}/cgroup.subtree_control", "+cpu +memory +pids")
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._root)
        self._set("pids.max", str(PIDS_MAX_DEFAULT))

    def create(self, exec_id: str) -> Cgroup:
        """Make the cgroup of an exec."""
        path = f"{self._root}/exec-{exec_id}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        return Cgroup(path)

    def retire(self, cgroup: Cgroup) -> None:
        """Remove the cgroup as soon as nothing lives in it."""
        if not cgroup.remove():
            self._lingering.append(cgroup)

    def sweep(self) -> None:
        """Remove retired cgroups that have become empty."""
        self._lingering = [cgroup for cgroup in self._lingering if not cgroup.remove()]

    @property
    def has_lingering(self) -> bool:
        """Whether retired cgroups still hold processes."""
        return bool(self._lingering)

    def kill_all(self) -> None:
        """Kill all user processes."""
        Cgroup(self._root).kill()

    def set_limits(self, *, memory_mib: int, cpu_percent: int, pids_max: int) -> None:
        """Bound what all user processes together may use; what the guest itself needs is left out already."""
        memory = max(MEMORY_MIB_MIN, memory_mib)
        self._set("memory.max", str(memory * MIB))
        self._set("cpu.max", f"{cpu_percent * 1000} 100000")
        self._set("pids.max", str(pids_max))

    def read(self, name: str) -> str:
        """Return the content of a control file, empty where the controller is missing."""
        try:
            with open(f"{self._root}/{name}") as file:
                return file.read()
        except OSError:
            return ""

    def _set(self, name: str, value: str) -> None:
        """Write a control file, which then stays open: a template has opened it for all its clones."""
        file = self._limits.get(name)
        if file is None:
            try:
                file = os.open(f"{self._root}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return  # a host without this controller is no reason to fail
            self._limits[name] = file
        os.pwrite(file, value.encode(), 0)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
