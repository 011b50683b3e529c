"""The supervisor with real services: crashes, its own death, orderly end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from sandfleet.local import down, processes
from sandfleet.local.layout import Layout
from sandfleet.local.lock import AlreadySupervised, is_locked, supervisor_lock
from sandfleet.local.orphans import running_with
from sandfleet.local.state import FleetState, ServiceCondition, ServiceState, read_state, write_state
from sandfleet.local.supervise import LEAVE_SIGNAL

pytestmark = pytest.mark.timeout(300)
PROGRAM = Path(__file__).with_name("supervised_stores.py")


@pytest.fixture
def layout() -> Iterator[Layout]:
    folder = Path(tempfile.mkdtemp(prefix="sandfleet-supervisor-"))
    folder.chmod(0o711)
    layout = Layout(folder)
    yield layout
    down.stop(layout)
    shutil.rmtree(folder)


@contextmanager
def supervising(layout: Layout, text: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run the supervisor in a process of its own; end it in the end."""
    process = subprocess.Popen([sys.executable, str(PROGRAM), str(layout.data_dir), text])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def until(layout: Layout, is_so: Callable[[FleetState], bool], *, within_s: float = 90) -> FleetState:
    """Wait until the state file says so."""
    deadline = time.monotonic() + within_s
    while True:
        state = read_state(layout)
        if state is not None and is_so(state):
            return state
        assert time.monotonic() < deadline, f"not within {within_s} s: {state}"
        time.sleep(0.05)


def all_run(state: FleetState) -> bool:
    return state.is_supervised and all(
        s.condition is ServiceCondition.RUNNING and s.is_alive for s in state.services
    )


def pid_of(state: FleetState, name: str) -> int:
    service = state.service(name)
    assert service is not None
    assert service.process is not None
    return service.process.pid


@pytest.mark.parametrize("name", ["postgres", "valkey", "program"])
def test_what_crashes_is_started_again_and_reported(layout: Layout, name: str) -> None:
    with supervising(layout):
        first = until(layout, all_run)
        os.kill(pid_of(first, name), signal.SIGKILL)
        again = until(layout, lambda s: all_run(s) and pid_of(s, name) != pid_of(first, name))
        service = again.service(name)
    assert service is not None
    assert service.restarts == 1
    assert "signal 9" in str(service.last_error)
    others = [s.name for s in first.services if s.name != name]
    assert [pid_of(first, o) for o in others] == [pid_of(again, o) for o in others]


def test_a_clean_end_leaves_no_process(layout: Layout) -> None:
    with supervising(layout):
        state = until(layout, all_run)
    assert [s.is_alive for s in state.services] == [False] * 3
    ended = until(layout, lambda s: all(x.condition is ServiceCondition.STOPPED for x in s.services))
    assert not ended.is_supervised
    assert not (layout.postgres / "cluster" / "postmaster.pid").exists()  # a shutdown, not a crash


def test_the_successor_of_a_killed_supervisor_adopts_what_runs(layout: Layout) -> None:
    with supervising(layout) as supervisor:
        first = until(layout, all_run)
        supervisor.kill()
    assert all(service.is_alive for service in first.services)
    with supervising(layout):
        second = until(layout, lambda s: s.supervisor != first.supervisor and all_run(s))
        assert [pid_of(second, s.name) for s in second.services] == [
            pid_of(first, s.name) for s in first.services
        ]
        os.kill(pid_of(second, "valkey"), signal.SIGKILL)  # an adopted one is watched like a child
        until(layout, lambda s: all_run(s) and pid_of(s, "valkey") != pid_of(first, "valkey"))
    assert not any(service.is_alive for service in second.services)


def test_the_successor_replaces_what_has_other_settings(layout: Layout) -> None:
    with supervising(layout, "one") as supervisor:
        first = until(layout, all_run)
        supervisor.send_signal(LEAVE_SIGNAL)  # what `up` with other choices does
        assert supervisor.wait(90) == 0
        assert all(service.is_alive for service in first.services)
    with supervising(layout, "two"):
        second = until(layout, lambda s: s.supervisor != first.supervisor and all_run(s))
    assert pid_of(second, "program") != pid_of(first, "program")
    assert pid_of(second, "postgres") == pid_of(first, "postgres")


def test_the_successor_ends_what_nobody_recorded(layout: Layout) -> None:
    with supervising(layout) as supervisor:
        first = until(layout, all_run)
        supervisor.kill()
        supervisor.wait(60)
    layout.state.unlink()
    with supervising(layout):
        second = until(layout, all_run)
        assert not any(service.is_alive for service in first.services)
        assert len(running_with([sys.executable, str(layout.data_dir / "program.py")])) == 1
    assert pid_of(second, "postgres") != pid_of(first, "postgres")


def test_down_ends_what_a_killed_supervisor_left(layout: Layout) -> None:
    with supervising(layout) as supervisor:
        state = until(layout, all_run)
        supervisor.kill()
        supervisor.wait(60)
        assert down.stop(layout) is True
    assert not any(service.is_alive for service in state.services)
    assert down.stop(layout) is False


def test_a_pid_that_another_process_got_is_left_alone(layout: Layout) -> None:
    with supervising(layout) as supervisor:
        state = until(layout, all_run)
        supervisor.terminate()
        supervisor.wait(60)
    stranger = processes.identify(os.getpid())
    assert stranger is not None
    reused = processes.ProcessIdentity(stranger.pid, stranger.started_ticks - 1, stranger.boot_id)
    services = tuple(_with_process(service, reused) for service in state.services)
    write_state(layout, FleetState(state.url, reused, services))
    assert down.stop(layout) is False  # and this process still runs


def _with_process(service: ServiceState, process: processes.ProcessIdentity) -> ServiceState:
    return msgspec.structs.replace(service, process=process)


def test_what_never_becomes_ready_is_given_up_and_the_rest_runs(layout: Layout) -> None:
    with supervising(layout, "broken") as supervisor:
        state = until(layout, lambda s: ServiceCondition.FAILED in {x.condition for x in s.services})
        program = state.service("program")
        assert program is not None
        assert program.restarts == 3
        assert "code 7" in str(program.last_error)
        assert "begun" in str(program.last_error)  # the end of its log
        assert pid_of(state, "postgres") > 0
        (layout.data_dir / "program.py").write_text("import time; time.sleep(600)")
        os.kill(supervisor.pid, signal.SIGHUP)  # what `up` sends: try again
        until(layout, all_run)


def test_one_supervisor_per_directory(layout: Layout) -> None:
    layout.make()
    with supervisor_lock(layout):
        assert is_locked(layout)
        with pytest.raises(AlreadySupervised, match=str(layout.data_dir)), supervisor_lock(layout):
            pass
    assert not is_locked(layout)
