"""The initrd's parts: equal inputs give equal bytes, and nothing that the guest lacks gets in."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from sandfleet.images.agent_archive import agent_archive, agent_modules
from sandfleet.images.cpio import CpioFile, cpio_archive
from sandfleet.images.errors import ImageBuildFailed
from sandfleet.images.initrd import listed_names, load_order

DEPENDENCIES = """\
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/net/core/failover.ko.xz:
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
"""
BUILTIN = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_ring.ko\n"


def a_package(directory: Path, files: dict[str, str]) -> Path:
    """Write a source tree with the package `sandfleet`."""
    for name, text in {"__init__.py": "", "agent/__init__.py": "", **files}.items():
        path = directory / "sandfleet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def test_modules_load_after_what_they_need() -> None:
    order = load_order(["virtio_net", "virtio-rng", "failover"], dependencies=DEPENDENCIES, builtin=BUILTIN)
    assert [path.rpartition("/")[2] for path in order] == [
        "failover.ko.xz",
        "net_failover.ko.xz",
        "virtio_net.ko.xz",
        "virtio-rng.ko.xz",
    ]


def test_modules_in_the_kernel_are_passed_over_and_unknown_ones_refused() -> None:
    assert load_order(["ext4", "virtio_ring"], dependencies=DEPENDENCIES, builtin=BUILTIN) == []
    with pytest.raises(ImageBuildFailed, match="virtio_mem"):
        load_order(["virtio_mem"], dependencies=DEPENDENCIES, builtin=BUILTIN)


def test_list_files_have_comments() -> None:
    assert listed_names("# all\na\n\n b # why\n") == ["a", "b"]


def test_cpio_does_not_depend_on_the_order_of_its_files() -> None:
    files = {"init": CpioFile(b"#!", 0o755), "modules/a.ko": CpioFile(b"abc")}
    archive = cpio_archive(files, directories=("proc", "a/b"))
    assert archive == cpio_archive(dict(reversed(files.items())), directories=("a/b", "proc"))
    names = [part.split(b"\0")[0][104:] for part in archive.split(b"070701")[1:]]
    assert names == [b"a", b"a/b", b"init", b"modules", b"modules/a.ko", b"proc", b"TRAILER!!!"]
    assert len(archive) % 4 == 0
    assert archive.count(b"abc\0") == 1


def test_agent_archive_holds_what_the_agent_imports_and_no_more(tmp_path: Path) -> None:
    source = a_package(
        tmp_path,
        {
            "agent/main.py": "from sandfleet.wire import frames\nimport os\n",
            "wire/__init__.py": "",
            "wire/frames.py": "from sandfleet.model.ids import x\n",
            "wire/other.py": "",
            "model/__init__.py": "",
            "model/ids.py": "x = 1\n",
            "worker/__init__.py": "",
        },
    )
    assert sorted(agent_modules(source)) == [
        "sandfleet",
        "sandfleet.agent",
        "sandfleet.agent.main",
        "sandfleet.model",
        "sandfleet.model.ids",
        "sandfleet.wire",
        "sandfleet.wire.frames",
    ]


def test_agent_archive_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    source = a_package(tmp_path, {"agent/main.py": "def main(): print('runs')\n"})
    archive = agent_archive(source)
    os.utime(source / "sandfleet/agent/main.py", (1, 1))
    assert agent_archive(source) == archive
    assert all(info.date_time[0] == 1980 for info in zipfile.ZipFile(BytesIO(archive)).infolist())
    program = tmp_path / "agent.pyz"
    program.write_bytes(archive)
    ran = subprocess.run([sys.executable, "-I", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "runs\n"


def test_agent_may_not_need_what_the_guest_lacks(tmp_path: Path) -> None:
    source = a_package(tmp_path, {"agent/main.py": "import msgspec\n"})
    with pytest.raises(ImageBuildFailed, match="standard library"):
        agent_archive(source)


def test_missing_agent_is_said() -> None:
    with pytest.raises(ImageBuildFailed, match="is missing"):
        agent_archive(Path("/nonexistent"))
