"""Directories of fleets that belong to one run of a benchmark or a test, and go with it.

A run may be killed, and its fleet is detached on purpose: it lives on. So each directory says whose
it is (`owner.json`: pid, start time and boot), and the next run of the same kind ends what a dead
one left before it begins. What a living run owns is never touched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from sandfleet.local.atomic_file import write_atomically
from sandfleet.local.layout import Layout
from sandfleet.local.lock import is_locked
from sandfleet.local.machines import count_machines
from sandfleet.local.processes import ProcessIdentity, boot_id, identify, is_alive
from sandfleet.local.state import read_state

PLACE = Path("/var/tmp")  # noqa: S108 -- each run makes its own in it, which nobody else can name before
OWNER_FILE = "owner.json"
_COMMAND_TIMEOUT_S = 400.0

log = structlog.get_logger(__name__)


class StillThere(Exception):
    """A fleet could not be brought down."""


def end_fleet(data_dir: Path) -> None:
    """Bring down the fleet of a directory with its sandboxes, whatever state it is in; `StillThere`."""
    layout = Layout(data_dir)
    if read_state(layout) is None:
        if not is_locked(layout):
            return  # nothing was started
        _sandfleet("up", data_dir)  # its supervisor has just begun: what it starts is not yet recorded
    problem = _sandfleet("down", "--stop-sandboxes", data_dir)
    if problem:  # only a fleet that serves can end its sandboxes
        problem = _sandfleet("up", data_dir) or _sandfleet("down", "--stop-sandboxes", data_dir)
    problem = _sandfleet("down", data_dir) or problem
    if count_machines(layout).total:
        raise StillThere(f"machines of the fleet in {data_dir} still run: {problem}")


@contextmanager
def disposable_directory(
    kind: str, *, place: Path = PLACE, end: Callable[[Path], None] = end_fleet
) -> Iterator[Path]:
    """Make a directory for this process; `end` brings down what runs in it, then it is removed."""
    end_left(kind, place=place, end=end)
    directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=place))
    directory.chmod(0o755)
    write_atomically(directory / OWNER_FILE, msgspec.json.encode(identify(os.getpid())), mode=0o644)
    try:
        yield directory
    finally:
        _remove(directory, end)


def end_left(kind: str, *, place: Path = PLACE, end: Callable[[Path], None] = end_fleet) -> None:
    """End and remove what dead runs of a kind left. What cannot be ended is said, kept and tried again."""
    for directory in sorted(place.glob(f"{kind}-*")):
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # removed meanwhile, or no directory
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                continue  # anybody may make one there
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of two runs that begin, one ends it
            owner = _owner(directory)
            if owner is None or is_alive(owner):
                continue
            log.info("left_fleet_found", directory=str(directory), owner=owner.pid)
            _remove(directory, end if owner.boot_id == boot_id() else _nothing_runs)
        except BlockingIOError:
            continue
        except (StillThere, OSError) as error:
            log.warning("left_fleet_stays", directory=str(directory), reason=str(error))
        finally:
            os.close(fd)


def _remove(directory: Path, end: Callable[[Path], None]) -> None:
    end(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _nothing_runs(_directory: Path) -> None:
    """End what ran before this machine was started anew."""


def _owner(directory: Path) -> ProcessIdentity | None:
    try:
        return msgspec.json.decode((directory / OWNER_FILE).read_bytes(), type=ProcessIdentity)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _sandfleet(*arguments: str | Path) -> str | None:
    """Run a command of the fleet; return what it says if it fails."""
    *command, data_dir = arguments
    argv = [sys.executable, "-m", "sandfleet", *map(str, command), "--data-dir", str(data_dir)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, env=os.environ, check=False
        )
    except subprocess.TimeoutExpired:
        return f"`sandfleet {command[0]}` took more than {_COMMAND_TIMEOUT_S:.0f} s"
    return None if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
