"""What a machine costs its host beside memory: the CPU time of a process, and what files take up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandfleet.adapters.qemu.machine import _allocated_mib
from sandfleet.adapters.qemu.process import cpu_seconds
from sandfleet.model.errors import HypervisorFailed


def test_cpu_time_is_that_of_the_process() -> None:
    times = os.times()
    assert 0 < cpu_seconds(os.getpid()) <= times.user + times.system + 1
    with pytest.raises(HypervisorFailed):
        cpu_seconds(2**22 + 1)


def test_holes_take_up_nothing(tmp_path: Path) -> None:
    (tmp_path / "written").write_bytes(os.urandom(3 * 2**20))
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert 2 <= _allocated_mib(tmp_path) <= 4
