"""Fault points: each that is listed stands in the code, and orders from a directory are taken once."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandfleet.adapters import fault_points
from sandfleet.adapters.fault_points import CALL_POINTS, WORKER_POINTS, FaultPoints, armed
from sandfleet.model.errors import BadRequest

SOURCE = Path(fault_points.__file__).parents[1]
_PASSED = re.compile(r'(?:faults\.at\(|point=)"([a-z]+\.[a-z_]+)"')


def test_each_point_that_is_listed_is_passed_in_one_place() -> None:
    passed = [
        name
        for path in sorted(SOURCE.rglob("*.py"))
        if "testing" not in path.parts
        for name in _PASSED.findall(path.read_text())
    ]
    assert sorted(passed) == sorted([*WORKER_POINTS, *CALL_POINTS])


async def test_nothing_happens_at_a_point_that_nobody_armed(tmp_path: Path) -> None:
    points = armed(tmp_path)
    await points.at("save.begun")
    assert list(tmp_path.iterdir()) == []
    assert FaultPoints().directory is None


async def test_an_order_is_taken_once(tmp_path: Path) -> None:
    points = armed(tmp_path)
    (tmp_path / "save.begun").write_text("enospc")
    with pytest.raises(OSError, match="No space left"):
        await points.at("save.begun")
    await points.at("save.begun")
    assert [path.name for path in tmp_path.iterdir()] == ["save.begun.reached"]


async def test_held_work_goes_on_when_it_is_let_go(tmp_path: Path) -> None:
    points = armed(tmp_path)
    (tmp_path / "wake.place.begun").write_text("hold")
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        held = tasks.create_task(points.at_step("wake.place.begun"))
        while not (tmp_path / "wake.place.begun.reached").exists():
            await asyncio.sleep(0)
        assert not held.done()
        (tmp_path / "wake.place.begun.reached").unlink()
    assert held.done()


def test_a_process_dies_where_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "save.begun").write_text("kill")
    program = (
        "import asyncio, pathlib, sys; from sandfleet.adapters.fault_points import armed; "
        "asyncio.run(armed(pathlib.Path(sys.argv[1])).at('save.begun'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], timeout=100, check=False, capture_output=True
    )
    assert ended.returncode == -9


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(BadRequest, match="by others"):
        armed(tmp_path)
    with pytest.raises(BadRequest, match="No such file"):
        armed(tmp_path / "missing")
