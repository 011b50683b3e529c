"""Services that run although no state file knows them.

A supervisor may be killed between the start of a process and the record of it. Such a
process is found by its command line, up to and including the one argument that belongs
to this data directory alone (a settings file, the cluster's directory).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sandfleet.local.processes import ProcessIdentity, identify


def running_with(prefix: Sequence[str]) -> list[ProcessIdentity]:
    """Return the processes whose arguments begin so, without those forked by another of them."""
    found = {pid for pid in _pids() if _arguments(pid)[: len(prefix)] == list(prefix)}
    roots = [pid for pid in sorted(found) if _parent(pid) not in found]
    return [identity for pid in roots if (identity := identify(pid)) is not None]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _arguments(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").rstrip("\0").split("\0")


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[1])
