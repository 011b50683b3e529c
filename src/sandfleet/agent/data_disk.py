"""The data disk: mounted when the guest boots, in the template of its clones.

Facts: a mount runs so much of the kernel that a translated guest pays seventy milliseconds and
five megabytes for it. The clones' disks stand on the template's as it was saved, so what its
kernel knows of the file system is true of theirs.
"""

from __future__ import annotations

import os
from pathlib import Path

from sandfleet.agent.places import HOME, WORKSPACE
from sandfleet.agent.syscalls import MS_BIND, MS_NOATIME, MS_NODEV, mount

DEVICE = "/dev/vdb"
MOUNT_POINT = "/run/sandfleet/data"
APT_CACHE = ".osb-apt-cache"
APT_ARCHIVES = "/var/cache/apt/archives"
SKELETON = "/etc/skel"
_PARTS = (("home", HOME), ("workspace", WORKSPACE), (f"home/{APT_CACHE}", APT_ARCHIVES))
_OPTIONS = "noinit_itable,no_prefetch_block_bitmaps"
"""The image's inode tables are zeroed already, and a new guest has nothing to allocate from most groups:
without the options a thread is started that reads all of them."""


def make_places() -> None:
    """Make what the disk is mounted on. Done at boot, so that no clone has to."""
    for path in (MOUNT_POINT, *(target for _, target in _PARTS)):
        os.makedirs(path, exist_ok=True)


def mount_data_disk(*, owner: tuple[int, int]) -> bool:
    """Mount the disk and put its parts where users see them; what is mounted already stays.

    Return whether it is there.
    """
    if not os.path.exists(DEVICE):
        return False
    if os.path.ismount(MOUNT_POINT):
        return True
    mount(DEVICE, MOUNT_POINT, kind="ext4", flags=MS_NOATIME | MS_NODEV, options=_OPTIONS)
    _prepare(owner)
    for part, target in _PARTS:
        mount(f"{MOUNT_POINT}/{part}", target, flags=MS_BIND)
    return True


def _prepare(owner: tuple[int, int]) -> None:
    """Make what a new disk lacks: the image's own lacks nothing, and is not written to."""
    if os.path.isdir(f"{MOUNT_POINT}/home/{APT_CACHE}/partial"):
        return
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
