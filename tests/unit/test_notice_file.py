"""The file that says that a host is about to be taken away, and what a VM was measured to cost."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandfleet.ports.hypervisor import MachineUsage
from sandfleet.worker.measured import Measured
from sandfleet.worker.notice import UNSAID, Notice, read_notice

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, (NOON.timestamp(), NOON.timestamp()))
    return path


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("", Notice(90, UNSAID)),
        ("no JSON at all", Notice(90, UNSAID)),
        ('{"reason": "spot"}', Notice(90, "spot")),
        ('{"ends_at": "2030-01-01T12:10:00Z", "reason": "maintenance"}', Notice(570, "maintenance")),
        ('{"ends_at": "2030-01-01T14:10:00+02:00"}', Notice(570, UNSAID)),
        ('{"ends_at": "2030-01-01T12:10:00"}', Notice(570, UNSAID)),
        ('{"ends_at": "2030-01-01T12:00:10Z"}', Notice(0, UNSAID)),
    ],
)
def test_its_presence_is_the_notice_and_it_may_say_when_and_why(
    tmp_path: Path, text: str, notice: Notice
) -> None:
    now = NOON + timedelta(seconds=30)
    assert read_notice(written(tmp_path / "notice", text), now=now) == notice


def test_without_it_there_is_none_and_what_cannot_be_read_is_one(tmp_path: Path) -> None:
    assert read_notice(None, now=NOON) is None
    assert read_notice(tmp_path / "notice", now=NOON) is None
    (tmp_path / "directory").mkdir()
    assert read_notice(tmp_path / "directory", now=NOON) == Notice(120, UNSAID)


def test_a_rate_needs_two_figures_of_one_process() -> None:
    measured = Measured()
    assert (measured.memory_mib, measured.cpu_used, measured.disk_mib) == (0, None, None)
    measured.note(memory_mib=46, usage=MachineUsage(cpu_s=10, disk_mib=7), at_s=100)
    assert (measured.memory_mib, measured.cpu_used, measured.disk_mib) == (46, None, 7)
    measured.note(memory_mib=46, usage=MachineUsage(cpu_s=13, disk_mib=7), at_s=102)
    assert measured.cpu_used == 1.5
    measured.note(memory_mib=46, usage=MachineUsage(cpu_s=1, disk_mib=7), at_s=104)
    assert measured.cpu_used is None
    measured.note(memory_mib=46, usage=MachineUsage(cpu_s=1, disk_mib=7), at_s=104)
    assert measured.cpu_used is None
