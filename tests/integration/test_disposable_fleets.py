"""What a killed run left is ended by the next run of its kind; what a living one has is left alone."""

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
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from sandfleet.local.layout import Layout
from sandfleet.local.processes import identify, send_signal
from sandfleet.local.state import FleetState, ServiceCondition, read_state
from sandfleet.testing.disposable_fleets import OWNER_FILE, StillThere, disposable_directory, end_left

pytestmark = pytest.mark.timeout(300)
SUPERVISED = Path(__file__).with_name("supervised_stores.py")
RUN = """
import sys
from pathlib import Path
from sandfleet.testing.disposable_fleets import disposable_directory
with disposable_directory("run", place=Path(sys.argv[1])) as directory:
    print(directory, flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_run(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run in a process of its own, which goes on until its input ends."""
    argv = [sys.executable, "-c", RUN, str(place)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        yield run, Path(run.stdout.readline().strip())


def remembering(ended: list[Path]) -> Callable[[Path], None]:
    return ended.append


def test_the_next_run_ends_what_a_killed_one_left(tmp_path: Path) -> None:
    ended: list[Path] = []
    with other_run(tmp_path) as (run, left):
        run.kill()
        run.wait()
        with disposable_directory("run", place=tmp_path, end=remembering(ended)) as own:
            assert ended == [left]
            assert not left.exists()
    assert ended == [left, own]
    assert list(tmp_path.iterdir()) == []


def test_a_living_run_keeps_what_it_has(tmp_path: Path) -> None:
    ended: list[Path] = []
    with other_run(tmp_path) as (_run, its):
        end_left("run", place=tmp_path, end=remembering(ended))
        assert its.is_dir()
    assert ended == []
    assert not its.exists()  # it came to its end, and removed its own


def left_in(place: Path) -> Path:
    """A directory of a process that is no more, whose pid another one has by now."""
    left = place / "run-old"
    left.mkdir()
    own = identify(os.getpid())
    assert own is not None
    older = replace(own, started_ticks=own.started_ticks - 1)
    (left / OWNER_FILE).write_bytes(msgspec.json.encode(older))
    return left


def test_a_pid_that_another_process_has_by_now_owns_nothing(tmp_path: Path) -> None:
    ended: list[Path] = []
    left = left_in(tmp_path)
    end_left("run", place=tmp_path, end=remembering(ended))
    assert ended == [left]


def test_other_kinds_and_directories_without_an_owner_stay(tmp_path: Path) -> None:
    ended: list[Path] = []
    unowned, link = tmp_path / "run-unowned", tmp_path / "run-link"
    unowned.mkdir()
    left = left_in(tmp_path)
    link.symlink_to(left)
    end_left("another", place=tmp_path, end=remembering(ended))
    assert (ended, left.exists()) == ([], True)
    end_left("run", place=tmp_path, end=remembering(ended))
    assert (ended, unowned.exists(), link.is_symlink()) == ([left], True, True)


def test_what_cannot_be_ended_is_kept_for_the_run_after(tmp_path: Path) -> None:
    def in_vain(_directory: Path) -> None:
        raise StillThere("it does not end")

    left = left_in(tmp_path)
    end_left("run", place=tmp_path, end=in_vain)
    assert (left / OWNER_FILE).exists()


def test_the_services_of_a_left_fleet_are_ended_though_its_supervisor_died_too(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="sandfleet-left-"))  # the stores' own users must get there
    place.chmod(0o711)
    try:
        left = left_in(place)
        with subprocess.Popen([sys.executable, str(SUPERVISED), str(left), ""]) as supervisor:
            state = _until_all_run(Layout(left))
            supervisor.kill()
        server = state.service("program")
        assert server is not None
        assert server.process is not None
        send_signal(server.process, signal.SIGKILL)  # no server is left that could be asked
        assert [service.is_alive for service in state.services if service is not server] == [True, True]
        end_left("run", place=place)
        assert not any(service.is_alive for service in state.services)
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place)


def _until_all_run(layout: Layout) -> FleetState:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state = read_state(layout)
        if (
            state
            and state.services
            and all(one.condition is ServiceCondition.RUNNING for one in state.services)
        ):
            return state
        time.sleep(0.05)
    raise AssertionError("the services did not start")
