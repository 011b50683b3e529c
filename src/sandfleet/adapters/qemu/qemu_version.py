"""Which QEMU is installed, and whether it is new enough."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sandfleet.adapters.processes import run_program
from sandfleet.adapters.sparse_files import fingerprint
from sandfleet.model.errors import HypervisorFailed

VERSION_MIN = (10, 0)
_VERSION = re.compile(r"version (\d+)\.(\d+)(?:\.(\d+))?([^\n]*)")
_known: dict[str, str] = {}
"""What each program has said, by how its file looked: asking costs every wake 20 ms."""


async def qemu_version(binary: str) -> str:
    """Return QEMU's full version text; `HypervisorFailed` says what to do about an old or absent one."""
    path = shutil.which(binary)
    if path is None:
        raise HypervisorFailed(f"{binary} is not installed")
    seen = fingerprint(Path(path))
    if seen not in _known:
        _known[seen] = checked_version(await run_program([path, "--version"]))
    return _known[seen]


def checked_version(said: str) -> str:
    """Return the version in the answer to `--version`, if it is new enough."""
    found = _VERSION.search(said)
    if found is None:
        raise HypervisorFailed(f"QEMU's version cannot be read from {said.strip()[:80]!r}")
    if (int(found[1]), int(found[2])) < VERSION_MIN:
        raise HypervisorFailed(
            f"QEMU {found[1]}.{found[2]} is installed, {VERSION_MIN[0]}.{VERSION_MIN[1]} or newer is needed"
            " (on Debian 12 from backports): older ones lose guest memory when a guest is moved"
        )
    return found[0].removeprefix("version ").strip()


def machine_type(version: str) -> str:
    """Return the pinned machine type of this version: a template must never load into a newer default."""
    major, minor = version.split(".")[:2]
    return f"pc-q35-{major}.{minor}"
