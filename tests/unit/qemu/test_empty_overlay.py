"""An overlay that is written without a tool is what the tool would have made."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sandfleet.adapters.qemu.bases import backing_of
from sandfleet.adapters.qemu.chains import virtual_size
from sandfleet.adapters.qemu.empty_overlay import write_empty_overlay
from sandfleet.model.errors import HypervisorFailed

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize("size_bytes", [8 * GIB, 20 * GIB + 512, 5000 * GIB])
def test_its_header_says_what_it_is_and_what_it_stands_on(tmp_path: Path, size_bytes: int) -> None:
    overlay, backing = tmp_path / "overlay", tmp_path / "below.qcow2"
    write_empty_overlay(overlay, backing=backing, size_bytes=size_bytes)
    assert virtual_size(overlay) == size_bytes
    assert backing_of(overlay) == backing
    assert overlay.stat().st_mode & 0o777 == 0o600
    assert overlay.stat().st_blocks * 512 < MIB


def test_no_file_is_overwritten_and_no_name_is_cut_short(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    write_empty_overlay(overlay, backing=tmp_path / "below", size_bytes=GIB)
    before = overlay.read_bytes()
    with pytest.raises(HypervisorFailed):
        write_empty_overlay(overlay, backing=tmp_path / "other", size_bytes=GIB)
    assert overlay.read_bytes() == before
    with pytest.raises(HypervisorFailed, match="too long"):
        write_empty_overlay(tmp_path / "second", backing=Path("/" + "x" * 1023), size_bytes=GIB)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
@pytest.mark.parametrize("size_bytes", [8 * GIB, 5000 * GIB])
def test_the_tool_finds_no_fault_in_it_before_and_after_writes(tmp_path: Path, size_bytes: int) -> None:
    overlay, below = tmp_path / "overlay", tmp_path / "below.qcow2"
    _tool("qemu-img", "create", "-q", "-f", "qcow2", str(below), str(size_bytes))
    _tool("qemu-io", "-c", "write -P 7 1M 1M", str(below))
    write_empty_overlay(overlay, backing=below, size_bytes=size_bytes)
    described = json.loads(_tool("qemu-img", "info", "--output=json", str(overlay)))
    assert described["virtual-size"] == size_bytes
    assert described["full-backing-filename"] == str(below)
    assert described["backing-filename-format"] == "qcow2"
    _tool("qemu-img", "check", str(overlay))
    end = size_bytes - MIB
    _tool("qemu-io", "-c", f"write -P 8 {end} 1M", "-c", "read -P 7 1M 1M", str(overlay))
    _tool("qemu-io", "-c", f"read -P 8 {end} 1M", "-c", "read -P 0 4M 1M", str(overlay))
    _tool("qemu-img", "check", str(overlay))


def _tool(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verification failed" not in done.stdout
    return done.stdout
