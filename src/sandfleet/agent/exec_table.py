"""All execs by id: starts each id once, bounds their number and their output."""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterable
from dataclasses import replace

from sandfleet.agent.cgroups import Cgroup, Cgroups
from sandfleet.agent.connections import Connections
from sandfleet.agent.exec_readers import FIRST_HOLD_S
from sandfleet.agent.execution import ExecState, Execution, Hooks, wall_clock
from sandfleet.agent.loop import EventLoop
from sandfleet.agent.output_log import Budget, OutputLog
from sandfleet.agent.reaper import Reaper
from sandfleet.agent.spawn import Command, Spawned, explain, spawn
from sandfleet.wire.agent_messages import OUTPUT_RETAINED_BYTES, Code, OperationFailed

KEPT_S = 600.0
RUNNING_MAX = 512
FINISHED_MAX = 1024
OUTPUT_TOTAL_BYTES = 64 * 1024 * 1024
OUTPUT_EACH_BYTES_MIN = 128 * 1024
REPORT_BYTES_MAX = 4096
CGROUP_SWEEP_S = 2.0
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class ExecTable:
    """The execs of this guest, kept across sessions."""

    def __init__(self, loop: EventLoop, reaper: Reaper, cgroups: Cgroups | None) -> None:
        self.connections = Connections(loop)
        self._loop = loop
        self._reaper = reaper
        self._cgroups = cgroups
        self._execs: dict[str, Execution] = {}
        self._finished: dict[str, Execution] = {}
        self._budget = Budget()
        self._sweeping = False

    def find(self, exec_id: str) -> Execution:
        """Return the exec that was started under this id, or the connection that was opened under it."""
        found = self._execs.get(exec_id) or self.connections.get(exec_id)
        if found is None:
            raise OperationFailed(Code.NOT_FOUND, f"no exec {exec_id}")
        return found

    def known(self, exec_id: str) -> bool:
        """Whether something was started under this id."""
        return exec_id in self._execs

    def all(self) -> Iterable[Execution]:
        """Return all execs, oldest first."""
        return self._execs.values()

    def reserve(self, exec_id: str, argv: list[str]) -> Execution:
        """Make the record of a new exec, so that a second start under its id finds it."""
        if not _ID.fullmatch(exec_id):
            raise OperationFailed(Code.BAD_REQUEST, "not an exec id")
        if len(self._execs) - len(self._finished) >= RUNNING_MAX:
            raise OperationFailed(Code.BUSY, f"{RUNNING_MAX} commands run already")
        execution = Execution(
            self._loop,
            ExecState(exec_id, argv, wall_clock()),
            OutputLog(self._budget),
            Hooks(wall_clock, self._log_size_max, self._on_end),
        )
        self._execs[exec_id] = execution
        return execution

    def start(self, execution: Execution, command: Command, *, timeout_s: float | None) -> None:
        """Start the process of a reserved exec; `when_started` tells whether it could be."""
        try:
            if self._cgroups is not None:
                execution.cgroup = self._cgroups.create(execution.state.exec_id)
            spawned = _spawn_into(execution.cgroup, command)
        except BaseException:
            self._give_up(execution)
            raise
        execution.take_pipes(spawned)
        report = bytearray()

        def settle(_events: int = 0) -> None:
            if not execution.starting or not _take_report(self._loop, spawned.failure, report):
                return
            if report:
                execution.failure = OperationFailed(Code.EXEC_FAILED, explain(bytes(report), command))
                self._give_up(execution)
            execution.on_started()

        def on_exit(status: int) -> None:
            settle()  # the report is complete before the process can end
            if execution.failure is None:
                execution.on_exit(status)

        self._reaper.expect(spawned.pid, on_exit)
        self._loop.watch(spawned.failure, select.EPOLLIN, settle)
        execution.readers.hold(0, FIRST_HOLD_S)
        if timeout_s is not None:
            execution.timer = self._loop.call_later(timeout_s, execution.expire)

    def forget_all(self, *, prefix: str) -> None:
        """Know nothing any more of the execs whose id begins with `prefix`; those that run are killed."""
        for execution in [one for exec_id, one in self._execs.items() if exec_id.startswith(prefix)]:
            execution.kill(signal.SIGKILL)
            self._forget(execution)

    def end_all(self) -> None:
        """Kill everything."""
        for execution in list(self._execs.values()):
            execution.kill(signal.SIGKILL)

    def _give_up(self, execution: Execution) -> None:
        execution.abandon()
        self._execs.pop(execution.state.exec_id, None)
        self._retire(execution)

    def _retire(self, execution: Execution) -> None:
        if self._cgroups is not None and execution.cgroup is not None:
            self._cgroups.retire(execution.cgroup)
            self._sweep_later()

    def _sweep_later(self) -> None:
        if self._cgroups is not None and self._cgroups.has_lingering and not self._sweeping:
            self._sweeping = True
            self._loop.call_later(CGROUP_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        if self._cgroups is not None:
            self._cgroups.sweep()
            self._sweep_later()

    def _on_end(self, execution: Execution) -> None:
        self._retire(execution)
        if self._execs.get(execution.state.exec_id) is not execution:
            return  # it was forgotten while it ran
        if not self._finished:
            self._loop.call_later(KEPT_S, self._expire)
        self._finished[execution.state.exec_id] = execution
        execution.finished_at = self._loop.now()
        if len(self._finished) > FINISHED_MAX:
            self._forget(next(iter(self._finished.values())))

    def _expire(self) -> None:
        """Forget those that ended `KEPT_S` ago; they stand in the order of their ends."""
        now = self._loop.now()
        for execution in list(self._finished.values()):
            left_s = execution.finished_at + KEPT_S - now
            if left_s > 0:
                self._loop.call_later(left_s, self._expire)
                return
            self._forget(execution)

    def _forget(self, execution: Execution) -> None:
        if self._execs.get(execution.state.exec_id) is execution:
            del self._execs[execution.state.exec_id]
            self._finished.pop(execution.state.exec_id, None)
            execution.log.trim(0)

    def _log_size_max(self) -> int:
        """Return what one log may hold now; above the total the oldest finished execs lose theirs first."""
        if self._budget.used <= OUTPUT_TOTAL_BYTES:
            return OUTPUT_RETAINED_BYTES
        for execution in self._finished.values():
            if not execution.readers.any:
                execution.log.trim(0)
                if self._budget.used <= OUTPUT_TOTAL_BYTES:
                    return OUTPUT_RETAINED_BYTES
        running = max(1, len(self._execs) - len(self._finished))
        return max(OUTPUT_EACH_BYTES_MIN, OUTPUT_TOTAL_BYTES // running)


def _spawn_into(cgroup: Cgroup | None, command: Command) -> Spawned:
    door = None if cgroup is None else cgroup.open_door()
    try:
        return spawn(replace(command, cgroup_door=door))
    finally:
        if door is not None:
            os.close(door)


def _take_report(loop: EventLoop, fd: int, report: bytearray) -> bool:
    """Add what the failure pipe says, in pieces; return whether that was all. Nothing is success."""
    while len(report) < REPORT_BYTES_MAX:
        try:
            piece = os.read(fd, REPORT_BYTES_MAX)
        except BlockingIOError:
            return False
        if not piece:
            break
        report += piece
    loop.forget(fd)
    os.close(fd)
    return True
