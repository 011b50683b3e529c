"""Named points in real code at which a test may stop the work, make it fail, or kill the process.

They cost a look into an empty table. Nothing fills it but a test in this process, or, where the setting
`fault_points_dir` names a directory, a file there with the name of a point: it is taken, once, by the
first process that passes the point, and becomes `<point>.reached`. Its content says what happens:

    kill      this process dies as by `kill -9`
    enospc    the point raises what a full disk raises
    hold      the work stands still until the test removes `<point>.reached`, at most `HOLD_S_MAX`

While the work is held a test can do from outside whatever may happen there: kill another process,
fill the disk, break the object store.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import structlog

from sandfleet.model.errors import BadRequest

log = structlog.get_logger(__name__)
HOLD_S_MAX = 60.0
HOLD_POLL_S = 0.02

WorkerPoint = Literal[
    "start.admitted",
    "start.assigned",
    "start.identified",
    "start.loaded",
    "start.sized",
    "start.served",
    "clone.seated",
    "clone.spawned",
    "clone.ready",
    "save.begun",
    "save.stopped",
    "save.written",
    "save.published",
    "save.ended",
    "capture.begun",
    "capture.stopped",
    "capture.written",
    "capture.published",
    "load.linked",
    "load.spawned",
    "load.answered",
    "load.ready",
    "succeed.loaded",
    "succeed.served",
    "erase.begun",
    "erase.ended",
    "erase.detached",
    "erase.removed",
    "receive.begun",
    "receive.fetched",
    "receive.published",
    "land.listening",
    "send.mirroring",
    "send.in_step",
    "send.copying",
    "send.paused",
    "send.drained",
    "send.handed_over",
    "land.running",
]
"""Points of a worker and its engine."""

StorePoint = Literal[
    "put.announced",
    "put.stored",
    "put.confirmed",
    "put.published",
    "fetch.begun",
    "fetch.bases",
]
"""Points of the work with the object store, in a worker."""

CallPoint = Literal[
    "answered.start_vm",
    "answered.stop_vm",
    "answered.save_vm",
    "answered.capture_vm",
    "answered.upload_snapshot",
]
"""Points of a server: the worker has answered, and nobody has written it down yet."""

WORKER_POINTS: tuple[str, ...] = (*get_args(WorkerPoint), *get_args(StorePoint))
CALL_POINTS: tuple[str, ...] = get_args(CallPoint)
Point = WorkerPoint | StorePoint | CallPoint


@dataclass(slots=True)
class FaultPoints:
    """What is done at each point, by name, in this process or by order of a test outside."""

    actions: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    directory: Path | None = None

    async def at(self, point: Point) -> None:
        """Pass a point."""
        await self.at_step(point)

    async def at_step(self, point: str) -> None:
        """Pass a point whose name is made of an operation's kind and step."""
        action = self.actions.get(point)
        if action is not None:
            await action()
        if self.directory is not None:
            await _trip(self.directory, point)


def armed(directory: Path | None) -> FaultPoints:
    """Return the points of a process; with a directory, which must be nobody else's, they may be tripped."""
    if directory is not None:
        try:
            status = directory.stat()
        except OSError as error:
            raise BadRequest(f"fault_points_dir {directory}: {error.strerror}") from error
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise BadRequest(f"fault_points_dir {directory} can be written by others than this process")
        log.warning("fault_points_armed", directory=str(directory))
    return FaultPoints(directory=directory)


async def _trip(directory: Path, point: str) -> None:
    order, reached = directory / point, directory / f"{point}.reached"
    try:
        what = order.read_text().strip()
        order.rename(reached)
    except OSError:
        return  # not armed, or another process was here first
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with suppress(TimeoutError):
        async with asyncio.timeout(HOLD_S_MAX):
            while reached.exists():  # noqa: ASYNC110 -- the other side is another process
                await asyncio.sleep(HOLD_POLL_S)
