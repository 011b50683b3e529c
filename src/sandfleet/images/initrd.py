"""The initrd: busybox, the drivers of this kernel that a guest needs, and the agent.

A change of the agent rebuilds only this part of an image.
"""

from __future__ import annotations

import lzma
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandfleet.images.cpio import CpioFile, cpio_archive
from sandfleet.images.errors import ImageBuildFailed

MOUNT_POINTS = ("dev", "proc", "root", "sys")


def build_initrd(*, modules_tar: Path, busybox: Path, agent: bytes, guest_dir: Path) -> bytes:
    """Return the initrd for the kernel whose module tree `modules_tar` holds."""
    wanted = listed_names((guest_dir / "modules.txt").read_text())
    drivers = _load_modules(modules_tar, wanted)
    order = "".join(f"{name}\n" for name in drivers)
    files = {
        "init": CpioFile((guest_dir / "init").read_bytes(), 0o755),
        "bin/busybox": CpioFile(busybox.read_bytes(), 0o755),
        "osb-agent.pyz": CpioFile(agent, 0o500),
        "modules/order": CpioFile(order.encode()),
        **{f"modules/{name}": CpioFile(content) for name, content in drivers.items()},
    }
    return cpio_archive(files, directories=MOUNT_POINTS)


def listed_names(text: str) -> Sequence[str]:
    """Return the names in a list file: one a line, `#` begins a comment."""
    return [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]


def load_order(wanted: Sequence[str], *, dependencies: str, builtin: str) -> Sequence[str]:
    """Return the module files to load, each after those it depends on.

    `dependencies` and `builtin` are the kernel's `modules.dep` and `modules.builtin`.
    """
    needs: dict[str, Sequence[str]] = {}
    for line in dependencies.splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {_module_name(path): path for path in needs}
    in_kernel = {_module_name(path) for path in builtin.split()}
    order: list[str] = []
    for name in map(_module_name, wanted):
        if name in in_kernel:
            continue
        if name not in by_name:
            raise ImageBuildFailed(f"this kernel has no module {name}")
        # depmod lists what is needed in reverse order of loading.
        for path in (*reversed(needs[by_name[name]]), by_name[name]):
            if path not in order:
                order.append(path)
    return order


def _load_modules(modules_tar: Path, wanted: Sequence[str]) -> Mapping[str, bytes]:
    with tarfile.open(modules_tar) as archive:
        members = {member.name: member for member in archive.getmembers()}

        def read(name: str) -> bytes:
            file = archive.extractfile(members[name]) if name in members else None
            if file is None:
                raise ImageBuildFailed(f"{modules_tar} lacks {name}")
            return file.read()

        order = load_order(
            wanted,
            dependencies=read("modules.dep").decode(),
            builtin=read("modules.builtin").decode(),
        )
        return {f"{_module_name(path)}.ko": _unpacked(path, read(path)) for path in order}


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _unpacked(path: str, content: bytes) -> bytes:
    if path.endswith(".ko"):
        return content
    if path.endswith(".ko.xz"):
        return lzma.decompress(content)
    raise ImageBuildFailed(f"{path} is compressed in a way that the build does not know")
