"""What the first process does before it serves: kernel file systems, limits, network, name.

Each step is tried by itself: a guest with a part missing still answers its host,
who can see what is wrong, and one that died would only panic.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

from sandfleet.agent import data_disk, machine_id, network, randomness
from sandfleet.agent.console import say_exception
from sandfleet.agent.spawn import protect_agent
from sandfleet.agent.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount
from sandfleet.agent.users import User

CGROUP_MOUNT = "/sys/fs/cgroup"
HOST_NAME = "sandbox"
"""Until the guest becomes somebody."""
FILES_MAX = 1048576
FILES_SOFT = 65536
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC

_MOUNTS = (
    ("proc", "/proc", "proc", _SAFE, ""),
    ("sysfs", "/sys", "sysfs", _SAFE, ""),
    ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"),
    ("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("mqueue", "/dev/mqueue", "mqueue", _SAFE, ""),
    ("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"),
    ("tmpfs", "/run/lock", "tmpfs", _SAFE, "mode=1777,size=5m"),
    # favordynmods: an exec joins its cgroup without waiting for all CPUs to pass a grace period.
    ("cgroup2", CGROUP_MOUNT, "cgroup2", _SAFE, "nsdelegate,favordynmods"),
)
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
_KERNEL_SETTINGS = (
    ("/proc/sys/kernel/printk", "1"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    # The host drops IPv6: nobody answers, and each question wakes the guest.
    (f"/proc/sys/net/ipv6/conf/{network.LINK}/router_solicitations", "0"),
    ("/proc/sys/fs/inotify/max_user_watches", "524288"),
    ("/proc/sys/fs/inotify/max_user_instances", "1024"),
)


def prepare_system() -> None:
    """Make the machine what programs expect."""
    os.umask(0o022)
    for step in _STEPS:
        _try(step)


def mount_data(user: User) -> bool:
    """Mount the data disk, whose parts belong to `user`; who becomes somebody tries again what failed."""
    try:
        return data_disk.mount_data_disk(owner=(user.uid, user.gid))
    except OSError:
        say_exception("mount of the data disk")
        return False


def _try(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:  # noqa: BLE001 -- see the module's first lines
        say_exception(f"boot step {step.__name__}")


def _mount_all() -> None:
    mounted = _mounted()
    for source, target, kind, flags, options in _MOUNTS:
        if target in mounted:
            continue
        with contextlib.suppress(OSError):
            os.makedirs(target, exist_ok=True)
        try:
            mount(source, target, kind=kind, flags=flags, options=options)
        except OSError:
            say_exception(f"mount {target}")
    os.chmod("/tmp", 0o1777)


def _mounted() -> set[str]:
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return set()
    return {line.split()[1] for line in lines}


def _link_devices() -> None:
    for target, link in _LINKS:
        with contextlib.suppress(FileExistsError):
            os.symlink(target, link)


def _set_kernel() -> None:
    for path, value in _KERNEL_SETTINGS:
        with contextlib.suppress(OSError):
            Path(path).write_text(value)


def _set_host_name() -> None:
    network.link_host_name()
    network.set_host_name(HOST_NAME)


def _set_limits() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_SOFT, FILES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))


_STEPS = (
    _mount_all,
    _link_devices,
    _set_kernel,
    _set_host_name,
    machine_id.lay_out,
    randomness.open_device,
    data_disk.make_places,
    _set_limits,
    protect_agent,
    network.bring_up,
)
