"""`up`: have the fleet of a data directory running, and wait until it serves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from sandfleet.local import down, processes
from sandfleet.local.configuration import (
    FleetConfiguration,
    load_configuration,
    load_secrets,
    save_configuration,
    with_servers,
    with_workers_added,
)
from sandfleet.local.launched_machines import slots_lent
from sandfleet.local.layout import Layout
from sandfleet.local.lock import is_locked
from sandfleet.local.machines import count_machines
from sandfleet.local.service_process import log_tail
from sandfleet.local.state import FleetState, ServiceCondition, ServiceKind, ServiceState, read_state
from sandfleet.local.supervise import LEAVE_SIGNAL
from sandfleet_sdk import NO_RETRIES, Client, SandfleetError

_POLL_S = 0.1
_STARTS_WITHIN_S = 15.0
_HOPELESS_AFTER = 4
Report = Callable[[str], object]


class FleetFailed(Exception):
    """The fleet did not come up; the message says which part, why, and where its log is."""


class ServiceHopeless(FleetFailed):
    """A service does not come up, and waiting will not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOrder:
    """What the caller wants different from what is recorded; None leaves a choice as it is."""

    api_host: str | None = None
    api_port: int | None = None
    memory_mib: int | None = None
    servers: int | None = None
    workers: int | None = None
    workers_max: int | None = None
    idle_reserve: int | None = None
    calm_s: float | None = None


class Started(StrEnum):
    """What `start` had to do."""

    FRESH = "fresh"
    CHANGED = "changed"
    NOTHING = "nothing"


def configure(layout: Layout, order: UpOrder) -> None:
    """Record the choices of an order and make what is missing of directories and secrets.

    Workers are only ever added here; `shrink` takes them out.
    """
    layout.make()
    load_secrets(layout)
    before = load_configuration(layout)
    after = _changed(before, order, lent=slots_lent(layout.machines))
    if after != before:
        save_configuration(layout, after)


def _changed(
    configuration: FleetConfiguration, order: UpOrder, *, lent: frozenset[int]
) -> FleetConfiguration:
    changes = {name: value for name in _fields() if (value := getattr(order, name)) is not None}
    configuration = msgspec.structs.replace(configuration, **changes)
    if order.servers is not None:
        configuration = with_servers(configuration, order.servers)
    if order.workers is not None:
        configuration = with_workers_added(configuration, order.workers, lent=lent)
    _require_room(configuration, kept=order.workers or len(configuration.workers))
    return configuration


def _require_room(configuration: FleetConfiguration, *, kept: int) -> None:
    most = configuration.workers_max
    if most is not None and most < kept:
        raise FleetFailed(
            f"{kept} workers are kept, and there may be {most}: raise --workers-max or lower --workers"
        )
    if configuration.idle_reserve and most is None:
        raise FleetFailed("a reserve needs workers that the fleet may have by itself: name --workers-max")


def bring_up(layout: Layout, *, timeout_s: float, report: Report) -> Started:
    """Start it and wait until it serves; what was begun here and cannot come up is not left behind."""
    outcome = start(layout)
    try:
        await_ready(layout, timeout_s=timeout_s, report=report)
    except ServiceHopeless:
        if outcome is Started.FRESH:
            report("ending what did start")
            down.stop(layout)
        raise
    return outcome


def start(layout: Layout) -> Started:
    """Start the supervisor in the background.

    One that runs already gives way to one with the choices as they are now, which takes over every
    service that they do not concern; if there is none, it only gets its failures forgiven.
    """
    outcome = Started.FRESH
    if is_locked(layout):
        if _has_choices_of_now(layout):
            _retry_what_failed(layout)
            return Started.NOTHING
        _end_supervisor_alone(layout)
        outcome = Started.CHANGED
    _start_supervisor(layout)
    return outcome


def _has_choices_of_now(layout: Layout) -> bool:
    state = read_state(layout)
    return state is not None and state.choices == load_configuration(layout).digest


def _end_supervisor_alone(layout: Layout) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while is_locked(layout):
        state = read_state(layout)
        if state is not None:
            processes.send_signal(state.supervisor, LEAVE_SIGNAL)
        if time.monotonic() > deadline:
            raise FleetFailed(f"the supervisor does not end; see {layout.log('supervisor')}")
        time.sleep(_POLL_S)


def _start_supervisor(layout: Layout) -> None:
    with layout.log("supervisor").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sandfleet.local.supervise", "--data-dir", str(layout.data_dir)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while not _is_supervised_by(layout, process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            log_path = layout.log("supervisor")
            raise FleetFailed(f"the supervisor did not start. Its log {log_path} ends:\n{log_tail(log_path)}")
        time.sleep(_POLL_S)


def await_ready(layout: Layout, *, timeout_s: float, report: Report) -> FleetState:
    """Wait until the API is ready and every worker has sandboxes standing by; return the state."""
    deadline = time.monotonic() + timeout_s
    said = ""
    with ExitStack() as stack:
        client: Client | None = None
        while True:
            state = read_state(layout)
            missing = "the supervisor starts" if state is None else _missing(layout, state)
            if state is not None and not missing:
                if client is None:
                    client = stack.enter_context(_client(layout, state))
                missing = _missing_of_api(client, state) or _missing_warm(layout)
                if not missing:
                    return state
            if time.monotonic() > deadline:
                raise FleetFailed(f"after {timeout_s:.0f} s still: {missing}. Logs: {layout.log('*')}")
            if missing != said:
                report(missing)
                said = missing
            time.sleep(_POLL_S)


def _client(layout: Layout, state: FleetState) -> Client:
    return Client(state.url, load_secrets(layout).bootstrap_key, retries=NO_RETRIES)


def _retry_what_failed(layout: Layout) -> None:
    state = read_state(layout)
    if state is None or not any(_is_hopeless(service) for service in state.services):
        return
    processes.send_signal(state.supervisor, signal.SIGHUP)
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline:
        state = read_state(layout)
        if state is not None and not any(_is_hopeless(service) for service in state.services):
            return
        time.sleep(_POLL_S)


def _is_supervised_by(layout: Layout, pid: int) -> bool:
    state = read_state(layout)
    return state is not None and state.supervisor.pid == pid and state.is_supervised


def _missing(layout: Layout, state: FleetState) -> str:
    """Say in a few words what is not yet there; empty when all is. Raise for what will not come."""
    if not state.is_supervised:
        raise FleetFailed(f"the supervisor ended; see {layout.log('supervisor')}")
    for service in _kept(state):
        if _is_hopeless(service):
            raise ServiceHopeless(
                f"{service.name} does not start: {service.last_error}. Log: {layout.log(service.name)}"
            )
    for service in _kept(state):
        if service.condition is not ServiceCondition.RUNNING:
            return _starting(service)
    return ""


def _kept(state: FleetState) -> list[ServiceState]:
    """Return what a fleet that is up has: workers that it has by itself come and go."""
    return [service for service in state.services if not service.is_launched]


def _missing_of_api(client: Client, state: FleetState) -> str:
    try:
        client.fleet.readiness()
        known = {worker.id: worker for worker in client.fleet.workers()}
    except SandfleetError as error:
        return f"the server answers: {error}"
    for service in _kept(state):
        if service.kind is not ServiceKind.WORKER:
            continue
        worker = known.get(service.name)
        if worker is not None and worker.state == "gone":
            raise FleetFailed(f"worker {service.name} was forgotten: take it out with `up --workers N`")
        if worker is None or worker.state != "ready":
            return f"worker {service.name} registers"
        if not worker.raw.get("golden_version"):
            return "the template is built (the first time: about 20 s)"
    return ""


def _missing_warm(layout: Layout) -> str:
    # A machine that is full of sandboxes has no room for ready ones, and needs none to be up.
    count = count_machines(layout)
    return "" if count.warm or count.owned else "the first sandboxes are made ready"


def _starting(service: ServiceState) -> str:
    if service.kind is ServiceKind.WORKER:
        return f"worker {service.name} starts (the first time it builds its template: about 20 s)"
    return f"{service.name} starts"


def _is_hopeless(service: ServiceState) -> bool:
    # A service that crashes each time at once need not be waited for to the end.
    is_crashing = service.condition is ServiceCondition.RESTARTING and service.failures >= _HOPELESS_AFTER
    return is_crashing or service.condition is ServiceCondition.FAILED


def _fields() -> tuple[str, ...]:
    return ("api_host", "api_port", "memory_mib", "workers_max", "idle_reserve", "calm_s")
