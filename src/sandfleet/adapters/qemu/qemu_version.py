"""Which QEMU is installed, and whether it is new enough."""

from __future__ import annotations

import re

from sandfleet.adapters.processes import run_program
from sandfleet.model.errors import HypervisorFailed

VERSION_MIN = (10, 0)
_VERSION = re.compile(r"version (\d+)\.(\d+)(?:\.(\d+))?([^\n]*)")


async def qemu_version(binary: str) -> str:
    """Return QEMU's full version text; `HypervisorFailed` says what to do about an old or absent one."""
    said = await run_program([binary, "--version"])
    return checked_version(said)


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
