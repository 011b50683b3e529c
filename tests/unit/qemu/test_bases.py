"""Fetched backings go when no disk stands on them, and never before."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import msgspec
import pytest
from tests.unit.qemu.builders import a_manifest, a_snapshot_manifest

from sandfleet.adapters.qemu.bases import AGE_S_MIN, backing_of, collect
from sandfleet.adapters.qemu.manifest import DiskChain, write_manifest
from sandfleet.model.errors import HypervisorFailed

MADE_AT_S = 1_000_000.0
LATER_S = MADE_AT_S + AGE_S_MIN
DIGEST = "a" * 64
BASE = f"{DIGEST}.qcow2"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with one old base."""
    for name in ("bases", "machines", "snapshots"):
        (tmp_path / name).mkdir()
    (tmp_path / "bases" / BASE).write_bytes(b"x")
    os.utime(tmp_path / "bases" / BASE, (MADE_AT_S, MADE_AT_S))
    return tmp_path


def a_layer(path: Path, *, backing: str | None) -> None:
    name = (backing or "").encode()
    offset = 104 if name else 0
    path.write_bytes(b"QFI\xfb" + struct.pack(">IQI", 3, offset, len(name)).ljust(100, b"\0") + name)


def a_machine(data: Path, *, backings: list[str] | None = None) -> Path:
    directory = data / "machines" / "m-1"
    directory.mkdir()
    chain = None
    if backings is not None:
        chain = DiskChain(layers=["root-1.qcow2"], nodes=["n"], base_node="b", backings=backings)
    manifest = a_manifest(state="ready", root=chain)
    write_manifest(directory, manifest, durable=False)
    return directory


def left(data: Path, *, now_s: float = LATER_S) -> list[str]:
    collect(data, data / "bases", now_s=now_s)
    return [path.name for path in (data / "bases").iterdir()]


def test_what_nothing_stands_on_goes_when_it_is_old(data: Path) -> None:
    assert left(data, now_s=LATER_S - 1) == [BASE]
    a_machine(data)
    assert left(data) == []


def test_a_header_keeps_it(data: Path) -> None:
    a_layer(a_machine(data) / "root-1.qcow2", backing=f"/elsewhere/{BASE}")
    assert left(data) == [BASE]


def test_a_machine_that_is_being_made_keeps_it(data: Path) -> None:
    (data / "machines" / "m-new").mkdir()
    a_layer(data / "machines" / "m-new" / "data-1.qcow2", backing=str(data / "bases" / BASE))
    assert left(data) == [BASE]


def test_a_machine_whose_lowest_layer_came_from_another_host_keeps_it(data: Path) -> None:
    directory = a_machine(data, backings=[str(data / "bases" / BASE)])
    a_layer(directory / "root-1.qcow2", backing="/a/path/of/that/host.qcow2")
    assert left(data) == [BASE]


def test_a_snapshot_keeps_it_by_its_digest(data: Path) -> None:
    directory = data / "snapshots" / "s-1"
    directory.mkdir()
    manifest = a_snapshot_manifest(root=["base"], backings={"base": DIGEST})
    (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert left(data) == [BASE]


def test_nothing_goes_when_something_cannot_be_read(data: Path) -> None:
    (a_machine(data) / "root-1.qcow2").write_bytes(b"no header")
    assert left(data) == [BASE]
    (data / "machines" / "m-1" / "root-1.qcow2").unlink()
    (data / "machines" / "m-1" / "manifest.json").write_text("{")
    assert left(data) == [BASE]


def test_a_header_says_what_a_layer_stands_on(tmp_path: Path) -> None:
    a_layer(tmp_path / "a", backing=None)
    a_layer(tmp_path / "b", backing="/x/y.qcow2")
    assert (backing_of(tmp_path / "a"), backing_of(tmp_path / "b")) == (None, Path("/x/y.qcow2"))
    (tmp_path / "c").write_bytes(b"")
    with pytest.raises(HypervisorFailed):
        backing_of(tmp_path / "c")
