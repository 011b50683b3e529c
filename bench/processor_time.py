"""How much processor time a fleet's processes have used."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_OWN = slice(11, 13)
_WITH_ENDED_CHILDREN = slice(11, 15)
"""Fields of /proc/<pid>/stat behind the command's closing parenthesis."""


def process_seconds(pids: Iterable[int]) -> float:
    """Return what these processes have used so far."""
    return sum(_ticks(pid, _OWN) for pid in pids) / _TICKS_PER_S


def running_seconds(pid: int) -> float:
    """Return what a process has used so far, finer than by the clock's ticks."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def service_seconds(data_dir: Path) -> float:
    """Return what a fleet's services have used: supervisor, stores, server and worker, without any QEMU."""
    return sum(_ticks(pid, _WITH_ENDED_CHILDREN) for pid in _service_pids(data_dir)) / _TICKS_PER_S


def _service_pids(data_dir: Path) -> set[int]:
    state = json.loads((data_dir / "state.json").read_text())
    roots = [state["supervisor"], *(service["process"] for service in state["services"])]
    found: set[int] = set()
    for root in roots:
        process = psutil.Process(root["pid"])
        family = [process, *process.children(recursive=True)]
        found |= {one.pid for one in family if not one.name().startswith("qemu-system")}
    return found


def _ticks(pid: int, fields: slice) -> int:
    behind = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, behind[fields]))
