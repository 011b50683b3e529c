"""What a version of a worker is on this machine: the program that it runs with, and settings of its own.

# Facts
Elsewhere a version is an image that a machine boots. Here the host is the same for all workers, so what may
differ is the program (the Python of another installation of sandfleet) and how the worker is set.

# Design
`versions/<version>.toml` beside the orders says so. It is read when a machine is ordered, and stands in the
order from then on: a machine stays what it was ordered as, whatever becomes of the file. The version of the
program that is installed needs no file.

    program = "/opt/sandfleet-2/bin/python"
    [settings]
    warm_pool_size = 2
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sandfleet import __version__
from sandfleet.model.launch import is_version

SettingValue = str | int | float | bool
OF_THE_MACHINE = frozenset(
    {
        "worker_id",
        "machine_id",
        "worker_version",
        "listen_host",
        "listen_port",
        "control_url",
        "join_token",
        "data_dir",
        "network_range",
        "uid_first",
        "memory_budget_mib",
        "cpu_budget",
        "disk_budget_mib",
    }
)
"""A version may not say these: each machine has its own."""


class UnknownVersion(Exception):
    """There is no such version here, or what is written of it cannot be read."""


@dataclass(frozen=True, slots=True)
class LocalVersion:
    """An empty program is the one that is installed."""

    program: str = ""
    settings: dict[str, SettingValue] = field(default_factory=dict)


def read_version(directory: Path, version: str) -> LocalVersion:
    """Return what the version is; UnknownVersion. `directory` is that of the orders."""
    if version in ("", __version__):
        return LocalVersion()
    if not is_version(version):
        raise UnknownVersion(f"{version!r} cannot be a version")
    path = directory / "versions" / f"{version}.toml"
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), type=LocalVersion)
    except FileNotFoundError:
        raise UnknownVersion(f"there is no version {version}: {path} is missing") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise UnknownVersion(f"{path} cannot be read: {error}") from error
    own = sorted(OF_THE_MACHINE & found.settings.keys())
    if own:
        raise UnknownVersion(f"{path} may not set {', '.join(own)}: each machine has its own")
    return found
