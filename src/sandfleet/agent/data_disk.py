"""The data disk: mounted when the guest becomes somebody, never in a template.

Facts: the template's kernel may have read the device before another disk stood
behind it, so its cached blocks are dropped before the mount.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sandfleet.agent.places import HOME, WORKSPACE
from sandfleet.agent.syscalls import MS_BIND, MS_NOATIME, MS_NODEV, mount

DEVICE = "/dev/vdb"
MOUNT_POINT = "/run/sandfleet/data"
APT_CACHE = ".osb-apt-cache"
APT_ARCHIVES = "/var/cache/apt/archives"
SKELETON = "/etc/skel"
_BLKFLSBUF = 0x1261


def mount_data_disk(*, owner: tuple[int, int]) -> None:
    """Mount the disk and put its parts where users see them; what is mounted already stays."""
    if not os.path.exists(DEVICE) or os.path.ismount(MOUNT_POINT):
        return
    fd = os.open(DEVICE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF)
    finally:
        os.close(fd)
    os.makedirs(MOUNT_POINT, exist_ok=True)
    mount(DEVICE, MOUNT_POINT, kind="ext4", flags=MS_NOATIME | MS_NODEV)
    _prepare(owner)
    for part, target in (("home", HOME), ("workspace", WORKSPACE), (f"home/{APT_CACHE}", APT_ARCHIVES)):
        os.makedirs(target, exist_ok=True)
        mount(f"{MOUNT_POINT}/{part}", target, flags=MS_BIND)


def _prepare(owner: tuple[int, int]) -> None:
    """Make what a new disk lacks."""
    data = Path(MOUNT_POINT)
    if _make(data / "home", owner):
        for source in Path(SKELETON).iterdir():
            if source.is_file():
                _copy(source, data / "home" / source.name, owner)
    _make(data / "workspace", owner)
    _make(data / "home" / APT_CACHE, (0, 0))
    _make(data / "home" / APT_CACHE / "partial", (0, 0))


def _make(path: Path, owner: tuple[int, int]) -> bool:
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        return False
    os.chown(path, *owner)
    return True


def _copy(source: Path, target: Path, owner: tuple[int, int]) -> None:
    target.write_bytes(source.read_bytes())
    os.chown(target, *owner)


def grow_command() -> list[str]:
    """Return the program that grows the mounted file system to its device."""
    return ["/usr/sbin/resize2fs", DEVICE]
