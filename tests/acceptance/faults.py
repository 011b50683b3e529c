"""Faults on a live fleet: which points each verb passes, and what can be done to the fleet there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import psutil
from tests.acceptance.census import machine_of, machines_of, qemu_processes
from tests.acceptance.chaos.victims import Victims
from tests.acceptance.live_fleet import LiveFleet

from sandfleet.adapters.fault_points import CALL_POINTS, WORKER_POINTS
from sandfleet.controlplane.operations.engine import step_points
from sandfleet.controlplane.operations.fleet import DEFINITIONS
from sandfleet.testing.disposable_fleets import end_fleet

VERBS: dict[str, tuple[str, ...]] = {
    "create": ("create.place", "create.start", "start.a", "start.identified", "start.served", "clone."),
    "delete": ("destroy.", "erase.", "answered.stop_vm"),
    "hibernate": ("hibernate.", "save.", "answered.save_vm", "upload.", "answered.upload_snapshot", "put."),
    "wake": ("wake.place", "wake.start", "load.", "start.loaded", "start.sized", "answered.start_vm"),
    "wake_fetched": ("receive.", "fetch."),
    "checkpoint": ("checkpoint.", "capture.", "answered.capture_vm"),
    "restore": ("restore.", "load.ready", "succeed.", "erase.begun"),
    "fork": ("fork.capture", "fork.wait", "capture.published", "load.spawned", "start.sized"),
    "recover": ("recover.clear", "recover.place", "recover.start"),
    "migrate": (
        "migrate.receive",
        "migrate.send",
        "migrate.land",
        "migrate.arrive",
        "send.",
        "land.",
        "release.clear",
    ),
}
"""The points of each verb, by how their names begin."""
BETWEEN_WORKERS = ("migrate",)
"""Verbs that need two workers: `test_move_faults.py` has a fleet of these."""
ELSEWHERE = (
    "create.queue",
    "wake.queue",
    "recover.queue",
    "fork.undo",
    "expire.",
    "resize.",
    "reboot.",
    "migrate.grow",
    "migrate.back",
)
"""Points on ways that need a full fleet or are no part of these verbs: tests/integration breaks off there."""

DISK = "disk"
ORDERS = "orders"
"""The directory of orders, in that of the fleet or beside it."""
OUTSIDE = ("server", "worker", "postgres", "valkey", "qemu", "disk", "store")
"""What is done while the work is held; `kill` and `enospc` are done by the process itself."""
OUTSIDE_MOVES = ("server", "worker", "postgres", "valkey", "source", "target")
"""The same for moves: both workers' processes at once, or the QEMU of one side."""
ALSO = (
    ("wake_fetched", "fetch.begun", "spoil"),
    ("hibernate", "put.announced", "spoil"),
    ("hibernate", "hibernate.save.begun", "flush"),
    ("wake", "wake.start.begun", "flush"),
    ("fork", "fork.wait.begun", "flush"),
    ("recover", "recover.place.begun", "flush"),
)
"""Rounds with what matters at few points: a store with other bytes than were put there, an emptied Valkey."""


def all_points() -> list[str]:
    """Return every point there is."""
    return [*WORKER_POINTS, *CALL_POINTS, *step_points(DEFINITIONS)]


def points_of(verb: str) -> list[str]:
    """Return the points that the verb passes."""
    return [point for point in all_points() if point.startswith(VERBS[verb])]


@dataclass(frozen=True, slots=True)
class Faults:
    """The means to do harm to one fleet."""

    fleet: LiveFleet
    directory: Path

    @contextmanager
    def armed(self, point: str, order: str) -> Iterator[None]:
        """Have the next process that passes the point follow the order; nothing is left of it afterwards."""
        (self.directory / point).write_text(order)
        try:
            yield
        finally:
            for name in (point, f"{point}.reached"):
                with suppress(FileNotFoundError):
                    (self.directory / name).unlink()

    def wait_reached(self, point: str, *, unless: Future[Any], timeout_s: float = 90) -> None:
        """Return when a process has come to the point, which may be after the answer."""
        reached = self.directory / f"{point}.reached"
        deadline = time.monotonic() + timeout_s
        while not reached.exists():
            answered = f", the answer was {unless.result()}" if unless.done() else ""
            assert time.monotonic() < deadline, f"{point} was not passed{answered}"
            time.sleep(0.02)

    def let_go(self, point: str) -> None:
        """Let held work go on."""
        with suppress(FileNotFoundError):
            (self.directory / f"{point}.reached").unlink()

    @contextmanager
    def done(self, fault: str, sandbox_id: str, *, before: frozenset[str]) -> Iterator[None]:
        """Do it, and put right afterwards what does not mend by itself."""
        if fault == "qemu":
            self.kill_qemu(sandbox_id)
        elif fault in ("source", "target"):
            self.kill_side(sandbox_id, before=before, is_target=fault == "target")
        elif fault == "disk":
            with self._full_disk():
                yield
            return
        elif fault == "store":
            with self._broken_store():
                yield
            return
        elif fault == "spoil":
            with self._spoilt_store():
                yield
            return
        elif fault == "flush":
            Victims(self.fleet).flush_redis()
        else:
            self.fleet.kill_9(fault)
        yield

    def kill_qemu(self, sandbox_id: str) -> bool:
        """Kill the sandbox's QEMU, or all that are being made for it; say whether there was one."""
        victims = [
            process
            for machine, process in qemu_processes(self.fleet).items()
            if machine_of(self.fleet, machine) == sandbox_id
        ]
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        return bool(victims)

    def kill_side(self, sandbox_id: str, *, before: frozenset[str], is_target: bool) -> None:
        """Kill the QEMU that a sandbox moves away from, or the one that it moves to, if it is there.

        `before` are the sandbox's machines as they were before the move.
        """
        machines = machines_of(self.fleet, sandbox_id)
        processes = qemu_processes(self.fleet)
        for machine in machines - before if is_target else machines & before:
            if machine in processes:
                with suppress(psutil.NoSuchProcess):
                    processes[machine].send_signal(signal.SIGKILL)

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        ballast = self.fleet.data_dir / "ballast"
        with ballast.open("wb") as file:
            free = shutil.disk_usage(self.fleet.data_dir).free
            for size in (free, 1 << 20, 1 << 16, 1 << 12):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
        try:
            yield
        finally:
            ballast.unlink()

    @contextmanager
    def _broken_store(self) -> Iterator[None]:
        """Put a file where the store's directory is: every call fails, reads and writes alike."""
        store = self.fleet.data_dir / "snapshots"
        away = store.with_name("snapshots-away")
        store.rename(away)
        store.touch()
        try:
            yield
        finally:
            store.unlink()
            away.rename(store)

    @contextmanager
    def _spoilt_store(self) -> Iterator[None]:
        """Change a bit in every piece that the store holds now, and put it back afterwards."""
        pieces = [path for path in self.fleet.data_dir.glob("snapshots/chunks/**/*") if path.is_file()]
        assert pieces, "the store holds no pieces"
        with ExitStack() as opened:
            # By open files: a piece that is stored anew meanwhile stays as it was stored.
            files = [opened.enter_context(path.open("r+b", buffering=0)) for path in pieces]
            for file in files:
                _flip_last_bit(file)
            try:
                yield
            finally:
                for file in files:
                    _flip_last_bit(file)


def _flip_last_bit(file: FileIO) -> None:
    file.seek(-1, os.SEEK_END)
    (last,) = file.read(1)
    file.seek(-1, os.SEEK_END)
    file.write(bytes([last ^ 1]))


def small_disk(parent: Path, *, size_gib: int) -> Path:
    """Mount a file system of its own, which can be filled without harm to the machine."""
    image, mounted = parent / "disk.img", parent / DISK
    with image.open("wb") as file:
        os.truncate(file.fileno(), size_gib << 30)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    return mounted


def end_on_small_disk(parent: Path) -> None:
    """Bring down the fleet of such a disk, and take the disk away; `StillThere`."""
    for order in (parent / ORDERS).glob("*"):
        order.unlink()  # nothing waits any more
    end_fleet(parent / DISK / "fleet")
    if (parent / DISK).is_mount():
        subprocess.run(["umount", "-l", str(parent / DISK)], check=True)
