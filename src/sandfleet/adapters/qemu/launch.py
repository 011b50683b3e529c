"""Starting one QEMU: unprivileged, limited, detached, with nothing but the descriptors it was given.

The chain `sh -> setpriv -> qemu` keeps one pid: the shell writes that pid down and
enters the cgroups while it is still root, so there is no moment at which a QEMU runs
that nobody has recorded or limited.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from sandfleet.adapters.qemu.config import LOG_FILE, PID_FILE
from sandfleet.adapters.qemu.manifest import ProcessIdentity
from sandfleet.adapters.qemu.process import identify
from sandfleet.adapters.qemu.write_faults import GROUP
from sandfleet.model.errors import HypervisorFailed

LOG_SHOWN_MAX = 1500
SOCKET_PATH_MAX = 107
OOM_SCORE = 500
"""When the host is short of memory a guest goes before the fleet's own processes."""

_ENTRY = """
cd / || exit 70
ulimit -c 0
echo $$ > "$1" || exit 71
echo "$2" > /proc/self/oom_score_adj
uid=$3 groups=$4 count=$5
shift 5
while [ "$count" -gt 0 ]; do
    echo $$ > "$1" || exit 72
    shift
    count=$((count - 1))
done
exec setpriv --reuid "$uid" --regid "$uid" --groups "$groups" --inh-caps=-all --ambient-caps=-all \
    --bounding-set=-all --no-new-privs -- "$@"
"""


@dataclass(frozen=True, slots=True)
class LaunchOrder:
    """One process to start. `cgroup_files` take its pid in; `descriptors` are inherited by number."""

    directory: Path
    uid: int
    argv: Sequence[str]
    descriptors: Sequence[int]
    cgroup_files: Sequence[Path]


def launch(order: LaunchOrder) -> ProcessIdentity:
    """Start the process in a session of its own and return who it is."""
    entry = ["sh", "-c", _ENTRY, "sandfleet-launch", str(order.directory / PID_FILE), str(OOM_SCORE)]
    entry += [
        str(order.uid),
        str(GROUP),
        str(len(order.cgroup_files)),
        *map(str, order.cgroup_files),
        *order.argv,
    ]
    log = str(order.directory / LOG_FILE)
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        # Onto itself: what makes a descriptor survive the exec.
        *((os.POSIX_SPAWN_DUP2, number, number) for number in order.descriptors),
        *((os.POSIX_SPAWN_CLOSE, number) for number in _strangers(order.descriptors)),
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    try:
        pid = os.posix_spawn("/bin/sh", entry, environment, file_actions=actions, setsid=True)
    except OSError as error:
        raise HypervisorFailed(f"QEMU cannot be started: {error}") from error
    return identify(pid)


def _strangers(wanted: Sequence[int]) -> list[int]:
    """Return what this process itself was started with, such as a lock: a guest would hold it for ever."""
    numbers = (int(name) for name in os.listdir("/proc/self/fd"))
    return [number for number in numbers if number > 2 and number not in wanted and _outlives_exec(number)]


def _outlives_exec(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # closed since it was listed, as is the list itself
        return False


def log_tail(directory: Path) -> str:
    """Return the end of what QEMU said."""
    try:
        return (directory / LOG_FILE).read_bytes()[-LOG_SHOWN_MAX:].decode(errors="replace").strip()
    except OSError:
        return ""


class Descriptors:
    """Descriptors opened for one launch; all are closed here when the process has inherited them."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file."""
        try:
            return self.keep(os.open(path, flags | os.O_CLOEXEC, mode))
        except OSError as error:
            raise HypervisorFailed(f"{path} cannot be opened: {error}") from error

    def keep(self, number: int) -> int:
        """Close `number` with the others."""
        self._stack.callback(os.close, number)
        return number

    def listen(self, path: Path) -> int:
        """Return a socket listening at `path`: a client may connect before QEMU has come up."""
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise HypervisorFailed(f"{path} is too long for a socket; choose a shorter data directory")
        path.unlink(missing_ok=True)
        with socket(AF_UNIX, SOCK_STREAM) as listening:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(4)
            return self.keep(os.dup(listening.fileno()))
