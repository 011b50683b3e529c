"""The files between the servers, which ask for machines of this machine, and the supervisor, which has them.

# Facts
Servers come and go, the supervisor does too, and neither may lose what the other has said.

# Design
The pool writes one order for each launch, under a lock, and marks the one that is to end. The supervisor
(`local/launched_machines.py`) follows the orders and reports beside them. The newest term lies there too, so
all servers refuse what an old leader asks. An order is kept for a week when its machine is gone, so that
no late repetition of its launch begins another.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from sandfleet.adapters.machines.terms import newest_of
from sandfleet.model.launch import LaunchId
from sandfleet.model.machine import Machine, MachineState

LOCK_PAUSE_S = 0.02
LOCK_ATTEMPTS_MAX = 500
_ORDER, _REPORT = ".order.json", ".report.json"
T = TypeVar("T")


class LocalOrder(msgspec.Struct, frozen=True, rename="camel"):
    """What the pool wants of one machine."""

    launch_id: str
    size: str
    version: str
    memory_mib: int
    cpu_count: int
    disk_mib: int
    asked_at: datetime
    is_ending: bool = False
    program: str = ""
    """What the version runs with; empty is what is installed."""
    settings: dict[str, str | int | float | bool] = {}
    """What the version sets, beside what the machine has."""

    @property
    def worker_id(self) -> str:
        """The id of the worker that the machine is."""
        return f"wk-{self.launch_id}"


class LocalCondition(StrEnum):
    """What the supervisor has made of it."""

    STARTING = "starting"
    RUNNING = "running"
    GONE = "gone"


class LocalReport(msgspec.Struct, frozen=True, rename="camel"):
    """What the supervisor says of one machine; its slot and port are kept for its life."""

    condition: LocalCondition = LocalCondition.STARTING
    slot: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """An order with what was reported of it, None before anything was."""

    order: LocalOrder
    report: LocalReport | None

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left of it."""
        return self.report is not None and self.report.condition is LocalCondition.GONE

    def seen(self) -> Machine:
        """Return it as the port tells of it."""
        is_running = self.report is not None and self.report.condition is LocalCondition.RUNNING
        state = MachineState.RUNNING if is_running else MachineState.STARTING
        return Machine(
            id=self.order.launch_id,
            launch_id=LaunchId(self.order.launch_id),
            size=self.order.size,
            state=MachineState.ENDING if self.order.is_ending else state,
            launched_at=self.order.asked_at,
        )


@dataclass(frozen=True, slots=True)
class LocalMachinesDirectory:
    """The files that stand between servers and supervisor. Each of them is replaced as a whole."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold it against everybody else who changes orders; TimeoutError when one does not let go."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)

    def machines(self) -> list[LocalMachine]:
        """Return all, those that are gone among them, by id."""
        names = sorted(path.name.removesuffix(_ORDER) for path in self.path.glob(f"*{_ORDER}"))
        found = [(self._read(name + _ORDER, LocalOrder), name) for name in names]
        return [
            LocalMachine(order, self._read(name + _REPORT, LocalReport))
            for order, name in found
            if order is not None
        ]

    def order(self, order: LocalOrder) -> None:
        """Write an order."""
        self._write(order.launch_id + _ORDER, msgspec.json.encode(order))

    def report(self, launch_id: str, report: LocalReport) -> None:
        """Write a report."""
        self._write(launch_id + _REPORT, msgspec.json.encode(report))

    def forget(self, launch_id: str) -> None:
        """Delete what is known of a machine that has been gone for long."""
        for suffix in (_REPORT, _ORDER):
            (self.path / f"{launch_id}{suffix}").unlink(missing_ok=True)

    def require_newest(self, term: int) -> None:
        """Note the term; StaleTerm if a newer one was here. The caller holds the lock."""
        seen = self._read("term.json", int) or 0
        if newest_of(seen, term) != seen:
            self._write("term.json", msgspec.json.encode(term))

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        fresh = self.path / f".{name}.{os.getpid()}"
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.path / name)


def _lock(fd: int) -> None:
    # Not for ever: a server that was stopped in the middle of its work keeps the lock until it goes on.
    for _ in range(LOCK_ATTEMPTS_MAX):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
    raise TimeoutError("another server holds the lock and does not let go")
