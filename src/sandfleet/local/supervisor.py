"""The supervisor: starts the fleet's services in order, keeps them running, stops them in reverse.

Rule 1: each service has one task. It adopts the process of an earlier supervisor when that
runs with the same command and settings, else ends it and starts its own.
Rule 2: what dies is started again after a pause that doubles up to half a minute; what had been
ready at once, and within two seconds if it goes on dying. What has died so many times in a row
without having run for a while is `failed`: reported, and left until the next `up`.
Rule 3: everything that is started is in the state file before anything else happens, so a
supervisor that is killed leaves nothing that its successor would not find.
Rule 4: machines that the fleet has launched here come and go while it runs; one that is told to end is
ended whole, and said to be gone last.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from sandfleet.adapters.machines.local_orders import LocalOrder
from sandfleet.adapters.task_group import TaskGroup
from sandfleet.local import processes
from sandfleet.local.layout import Layout
from sandfleet.local.log_rotation import rotate
from sandfleet.local.machine_follower import MachineFollower
from sandfleet.local.orphans import running_with
from sandfleet.local.processes import ProcessIdentity
from sandfleet.local.service_process import log_tail, spawn
from sandfleet.local.services import Service
from sandfleet.local.state import FleetState, ServiceCondition, ServiceState, write_state
from sandfleet.model.errors import SandfleetError
from sandfleet.ports.clock import Clock

_log = structlog.get_logger(__name__)
_ROTATE_EVERY_S = 10.0
_POLL_READY_S = 0.05
_FOLLOW_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How crashes are answered."""

    first_pause_s: float = 0.2
    pause_s_max: float = 30.0
    pause_when_ready_s_max: float = 2.0
    """What was killed, however often, is needed back; what cannot come up gains nothing by haste."""
    attempts_max: int = 10
    stable_after_s: float = 10.0
    """A service that has run so long has its earlier crashes forgiven: its next one costs no long pause."""

    def pause_s(self, failures: int, *, was_ready: bool) -> float:
        """Return the pause after so many failures in a row; `was_ready`: what died last had come up."""
        if was_ready and failures == 1:
            return 0.0
        longest_s = self.pause_when_ready_s_max if was_ready else self.pause_s_max
        return float(min(longest_s, self.first_pause_s * 2 ** (failures - 1)))


@dataclass(slots=True)
class _Entry:
    """A service and what became of it."""

    service: Service
    state: ServiceState
    was_ready: asyncio.Event = field(default_factory=asyncio.Event)
    forgiven: asyncio.Event = field(default_factory=asyncio.Event)
    child: subprocess.Popen[bytes] | None = None


def _entry(service: Service) -> _Entry:
    state = ServiceState(service.name, service.kind, ServiceCondition.WAITING, service.port)
    return _Entry(service, msgspec.structs.replace(state, is_launched=service.is_launched))


class Supervisor:
    """Keeps the services of one data directory. The caller holds the directory's lock."""

    def __init__(
        self,
        layout: Layout,
        services: Sequence[Service],
        *,
        url: str,
        clock: Clock,
        before: FleetState | None,
        choices: str = "",
    ) -> None:
        self._layout = layout
        self.machines: MachineFollower | None = None
        """Machines that the fleet has launched here; those that there are already are among `services`."""
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._endings: dict[str, asyncio.Task[None]] = {}
        self._url = url
        self._choices = choices
        self._clock = clock
        self._before = before
        self.policy = RestartPolicy()
        self._stopping = asyncio.Event()
        self._leaves_services = False
        self._entries = {service.name: _entry(service) for service in services}
        identity = processes.identify(os.getpid())
        if identity is None:
            raise RuntimeError("this process cannot read its own identity from /proc")
        self._identity = identity

    def request_retry(self) -> None:
        """Forgive every service its failures and start what does not run at once."""
        for entry in self._entries.values():
            entry.forgiven.set()

    def request_stop(self) -> None:
        """Ask for an orderly end."""
        self._stopping.set()

    def request_leave(self) -> None:
        """Ask for an end that leaves the services running, for a supervisor with other choices."""
        self._leaves_services = True
        self._stopping.set()

    async def run(self) -> None:
        """Run until asked to stop; then end all services, the last started first."""
        await self._end_leftovers()
        self._inherit()
        async with TaskGroup() as tasks:
            for name, entry in self._entries.items():
                self._keepers[name] = tasks.create_task(self._keep(entry))
            others = [tasks.create_task(self._rotate_logs()), tasks.create_task(self._follow(tasks))]
            await self._stopping.wait()
            for task in (*self._keepers.values(), *self._endings.values(), *others):
                task.cancel()
        if self._leaves_services:
            return
        for entry in reversed(self._entries.values()):
            await self._end(entry)
            self._record(entry, condition=ServiceCondition.STOPPED, process=None)

    async def _end_leftovers(self) -> None:
        # Processes of an earlier supervisor that may not be adopted: another command, or no longer wanted.
        for old in reversed(self._before.services if self._before else ()):
            entry = self._entries.get(old.name)
            adoptable = entry is not None and entry.service.digest == old.digest
            if old.process is not None and old.is_alive and not adoptable:
                _log.info("ending a service of an earlier supervisor", service=old.name, pid=old.process.pid)
                patience_s = entry.service.command.patience_s if entry else 20.0
                ask = entry.service.command.stop_signal if entry else signal.SIGTERM
                await asyncio.to_thread(processes.stop, old.process, ask=ask, patience_s=patience_s)
        for entry in reversed(self._entries.values()):
            await self._end_orphans(entry)

    async def _end_orphans(self, entry: _Entry) -> None:
        old = self._before.service(entry.service.name) if self._before else None
        known = old.process if old else None
        command = entry.service.command
        for process in await asyncio.to_thread(running_with, entry.service.signature):
            if process != known:
                _log.info(
                    "ending a service that nobody recorded", service=entry.service.name, pid=process.pid
                )
                await asyncio.to_thread(
                    processes.stop, process, ask=command.stop_signal, patience_s=command.patience_s
                )

    def _inherit(self) -> None:
        for old in self._before.services if self._before else ():
            entry = self._entries.get(old.name)
            if entry is not None and old.is_alive and entry.service.digest == old.digest:
                _log.info("adopting a running service", service=old.name)
                entry.state = old
        self._write()

    async def _keep(self, entry: _Entry) -> None:
        """Have one service running, until cancelled."""
        for name in entry.service.after:
            await self._entries[name].was_ready.wait()
        while True:
            await self._keep_until_given_up(entry)
            _log.error("a service is given up", service=entry.service.name, reason=entry.state.last_error)
            self._record(entry, condition=ServiceCondition.FAILED)
            await entry.forgiven.wait()

    async def _keep_until_given_up(self, entry: _Entry) -> None:
        failures = 0
        while failures < self.policy.attempts_max:
            entry.forgiven.clear()
            begun = self._clock.monotonic()
            problem = await self._run_once(entry)
            if self._clock.monotonic() - begun > self.policy.stable_after_s:
                failures = 0
            failures += 1
            was_ready = entry.state.condition is ServiceCondition.RUNNING
            pause_s = self.policy.pause_s(failures, was_ready=was_ready)
            _log.warning("a service ended", service=entry.service.name, reason=problem, again_in_s=pause_s)
            self._record(
                entry,
                condition=ServiceCondition.RESTARTING,
                process=None,
                restarts=entry.state.restarts + 1,
                failures=failures,
                last_error=problem,
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(entry.forgiven.wait(), pause_s)
                failures = 0

    async def _run_once(self, entry: _Entry) -> str:
        """Start (or adopt) the service and wait for its end; return why it ended."""
        identity = entry.state.process if entry.state.is_alive else None
        if identity is None:
            try:
                identity = self._spawn(entry)
            except OSError as error:
                return f"it cannot be started: {error}"
        if identity is None:
            return self._ending(entry)
        async with TaskGroup() as tasks:
            ready = tasks.create_task(self._await_ready(entry, identity))
            await self._gone(identity)
            ready.cancel()
        return self._ending(entry)

    def _spawn(self, entry: _Entry) -> ProcessIdentity | None:
        entry.child = spawn(entry.service.command)
        identity = processes.identify(entry.child.pid)
        self._record(
            entry,
            condition=ServiceCondition.STARTING,
            process=identity,
            digest=entry.service.digest,
            since=self._clock.now(),
        )
        return identity

    async def _await_ready(self, entry: _Entry, identity: ProcessIdentity) -> None:
        deadline = self._clock.monotonic() + entry.service.ready_within_s
        while not await asyncio.to_thread(entry.service.is_ready, identity.pid):
            if self._clock.monotonic() > deadline:
                self._record(entry, last_error=f"not ready within {entry.service.ready_within_s:.0f} s")
                processes.send_signal(identity, signal.SIGKILL)
                return
            await self._clock.sleep(_POLL_READY_S)
        self._record(entry, condition=ServiceCondition.RUNNING, failures=0)
        entry.was_ready.set()

    async def _gone(self, identity: ProcessIdentity) -> None:
        fd = processes.open_pidfd(identity)
        if fd is None:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def _ending(self, entry: _Entry) -> str:
        code = entry.child.wait(1) if entry.child is not None else None
        entry.child = None
        how = (
            "ended"
            if code is None
            else f"was ended by signal {-code}"
            if code < 0
            else f"ended with code {code}"
        )
        lines = log_tail(entry.service.command.log_path).splitlines()
        return f"{how}; its log ends: {lines[-1][:300]}" if lines else how

    async def _end(self, entry: _Entry) -> None:
        process = entry.state.process
        if process is not None:
            command = entry.service.command
            clean = await asyncio.to_thread(
                processes.stop, process, ask=command.stop_signal, patience_s=command.patience_s
            )
            _log.info("a service was ended", service=entry.service.name, clean=clean)
        if entry.child is not None:
            with suppress(subprocess.TimeoutExpired):
                entry.child.wait(1)

    async def _follow(self, tasks: TaskGroup) -> None:
        """Have the machines that the fleet has launched here, and no others, until cancelled."""
        while self.machines is not None:
            try:
                await self._follow_once(self.machines, tasks)
            except (OSError, msgspec.DecodeError) as error:
                _log.error("the orders for machines cannot be followed", reason=str(error))
            await self._clock.sleep(_FOLLOW_EVERY_S)

    async def _follow_once(self, machines: MachineFollower, tasks: TaskGroup) -> None:
        for service in await asyncio.to_thread(machines.services):
            if service.name not in self._entries:
                entry = self._entries[service.name] = _entry(service)
                self._keepers[service.name] = tasks.create_task(self._keep(entry))
        up = [name for name, entry in self._entries.items() if entry.was_ready.is_set()]
        await asyncio.to_thread(machines.machines.say_running, up)
        for order in await asyncio.to_thread(machines.machines.ending):
            if order.launch_id not in self._endings:
                self._endings[order.launch_id] = tasks.create_task(self._end_machine(machines, order))

    async def _end_machine(self, machines: MachineFollower, order: LocalOrder) -> None:
        """End a machine whole; what fails is tried again in a later round."""
        keeper = self._keepers.pop(order.worker_id, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        entry = self._entries.get(order.worker_id)
        if entry is not None:
            await self._end(entry)
            del self._entries[order.worker_id]
            self._write()
        try:
            await machines.clear(order)
            await asyncio.to_thread(machines.say_gone, order)
            _log.info("a machine is gone", machine=order.launch_id)
        except (SandfleetError, OSError, TimeoutError) as error:
            _log.error("a machine could not be ended", machine=order.launch_id, reason=repr(error))
        finally:
            self._endings.pop(order.launch_id, None)

    async def _rotate_logs(self) -> None:
        while True:
            await self._clock.sleep(_ROTATE_EVERY_S)
            for entry in self._entries.values():
                await asyncio.to_thread(rotate, entry.service.command.log_path)
            await asyncio.to_thread(rotate, self._layout.log("supervisor"))

    def _record(self, entry: _Entry, **changes: object) -> None:
        entry.state = msgspec.structs.replace(entry.state, **changes)
        self._write()

    def _write(self) -> None:
        states = tuple(entry.state for entry in self._entries.values())
        write_state(self._layout, FleetState(self._url, self._identity, states, self._choices))
