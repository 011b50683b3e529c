"""The machine id: not on the disk of a guest that nobody used, the same after a reboot, new in a fork."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandfleet.agent import identity_files, machine_id


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Lay out a guest's disk as an image has it, and boot from it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").touch()
    monkeypatch.setattr(machine_id, "LINK", str(tmp_path / "etc/machine-id"))
    monkeypatch.setattr(machine_id, "MEMORY", str(tmp_path / "run/machine-id"))
    monkeypatch.setattr(machine_id, "KEPT", str(tmp_path / "var/machine-id"))
    machine_id.lay_out()
    yield tmp_path
    identity_files.let_go()


def seen(disk: Path) -> str:
    return (disk / "etc/machine-id").read_text()


def reboot(disk: Path) -> None:
    identity_files.let_go()  # what a process holds ends with it
    (disk / "run/machine-id").unlink()
    machine_id.lay_out()


def test_an_image_has_none(disk: Path) -> None:
    assert seen(disk).strip() == ""
    assert not machine_id.is_there()


def test_what_was_rehearsed_is_forgotten_but_what_is_on_the_disk_is_not(disk: Path) -> None:
    before = (disk / "etc/machine-id").read_bytes()
    machine_id.make()
    machine_id.forget()
    assert (disk / "etc/machine-id").read_bytes() == before
    machine_id.make()
    machine_id.keep()
    mine = seen(disk)
    machine_id.forget()
    assert seen(disk) == mine


def test_a_guest_that_nobody_used_wrote_nothing(disk: Path) -> None:
    kept = disk / "var/machine-id"
    before = (kept.stat().st_mtime_ns, kept.read_bytes())
    machine_id.make()
    assert len(seen(disk)) == 33
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before


def test_a_guest_that_was_used_is_known_by_it_after_a_reboot(disk: Path) -> None:
    machine_id.make()
    machine_id.keep()
    mine = seen(disk)
    reboot(disk)
    assert machine_id.is_there()
    assert seen(disk) == mine


def test_a_fork_that_reboots_before_its_first_command_is_not_its_parent(disk: Path) -> None:
    machine_id.make()
    machine_id.keep()
    parent = seen(disk)
    machine_id.make()
    child = seen(disk)
    reboot(disk)
    assert seen(disk) == child != parent


def test_the_id_on_a_disk_of_before_is_kept(disk: Path) -> None:
    (disk / "etc/machine-id").unlink()
    (disk / "etc/machine-id").write_text("f" * 32 + "\n")
    reboot(disk)
    assert seen(disk) == "f" * 32 + "\n"
    reboot(disk)
    assert seen(disk) == "f" * 32 + "\n"
