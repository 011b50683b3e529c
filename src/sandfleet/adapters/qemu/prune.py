"""Removing templates and images that nothing stands on any more.

Rule 1: what is current stays: the image that `current` points to, and the templates made from it.
Rule 2: what is in use stays: what the manifest of a machine or snapshot names, in every data directory known,
and what any process of the host has open or mapped. A worker holds what it would clone from open.
Rule 3: an image stays while a template stands on it.
Rule 4: what is younger than an hour stays: somebody may be about to use it.
Rule 5: a manifest that cannot be read might name anything, so nothing is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sandfleet.adapters.qemu import snapshot_files
from sandfleet.adapters.qemu.manifest import Manifest, read_manifest
from sandfleet.adapters.qemu.process import PROC
from sandfleet.adapters.qemu.template import MANIFEST_FILE, TemplateManifest
from sandfleet.adapters.qemu.template_build import BUILDING_PREFIX
from sandfleet.model.errors import Conflict, HypervisorFailed

AGE_S_MIN = 3600.0
LINKS = "by-inputs"
LOCK_FILE = ".lock"
CURRENT = "current"
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Unused:
    """Something that may go. `size_bytes` is what its removal frees."""

    kind: str
    path: Path
    size_bytes: int


def unused_templates(templates_dir: Path, *, data_dirs: Iterable[Path], now_s: float) -> list[Unused]:
    """Return the templates that nothing needs; raise HypervisorFailed when that cannot be known."""
    named = {version for data_dir in data_dirs for version in _versions_in_use(data_dir)}
    in_use = _directories_in_use(templates_dir)
    return [
        Unused("template", path, _size(path))
        for path in _published(templates_dir)
        if path.name not in named and path not in in_use and _is_old(path, now_s) and not _is_current(path)
    ]


def unused_images(images_dir: Path, *, templates: Iterable[Path], now_s: float) -> list[Unused]:
    """Return the images that nothing needs; `templates` are those that stay."""
    needed = {disk.parent for template in templates for disk in _backing(template)}
    needed |= _directories_in_use(images_dir)
    return [
        Unused("image", path, _size(path))
        for path in sorted(found.parent for found in images_dir.resolve().glob("[!.]*/[!.]*/manifest.json"))
        if path.name != CURRENT
        and path != (path.parent / CURRENT).resolve()
        and path not in needed
        and _is_old(path, now_s)
    ]


def published_templates(templates_dir: Path) -> list[Path]:
    """Return the directories of all finished templates."""
    return list(_published(templates_dir))


def remove(unused: Sequence[Unused]) -> None:
    """Remove them, each by a rename first: nobody finds half of one."""
    for one in unused:
        doomed = one.path.with_name(f"{BUILDING_PREFIX}{one.path.name}")
        one.path.rename(doomed)
        shutil.rmtree(doomed)
        links = one.path.parent / LINKS
        for link in links.iterdir() if links.is_dir() else ():
            if not link.exists():
                link.unlink()


@contextmanager
def no_build(directory: Path) -> Iterator[None]:
    """Keep builds out of a directory of images or templates; `Conflict` when one runs."""
    handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"something is being built in {directory}", code="busy") from None
        yield
    finally:
        os.close(handle)


def _published(templates_dir: Path) -> Iterator[Path]:
    for found in sorted(templates_dir.resolve().glob(f"[!.]*/{MANIFEST_FILE}")):
        if not found.parent.name.startswith(BUILDING_PREFIX):
            yield found.parent


def _versions_in_use(data_dir: Path) -> Iterator[str]:
    machines = data_dir / "machines"
    for directory in machines.iterdir() if machines.is_dir() else ():
        with suppress(FileNotFoundError):
            yield from _named_by(read_manifest(directory))
    for directory in snapshot_files.complete(data_dir):
        yield snapshot_files.read(directory).template_version


def _named_by(machine: Manifest) -> Iterator[str]:
    """Return its template, and those whose files are below its disks: perhaps others with the same bytes."""
    yield machine.template_version
    for chain in (machine.root, machine.data):
        yield from (Path(path).parent.name for path in (chain.backings if chain else ()))


def _backing(template: Path) -> list[Path]:
    """Return the image's disks below a template."""
    try:
        manifest = msgspec.json.decode((template / MANIFEST_FILE).read_bytes(), type=TemplateManifest)
    except (OSError, msgspec.DecodeError) as error:
        raise HypervisorFailed(f"{template} cannot be read: {error}") from error
    return [Path(path).resolve() for path in manifest.backing.values()]


def _is_current(template: Path) -> bool:
    return any(disk.parent == (disk.parents[1] / CURRENT).resolve() for disk in _backing(template))


def _is_old(path: Path, now_s: float) -> bool:
    return now_s - path.stat().st_mtime >= AGE_S_MIN


def _directories_in_use(root: Path) -> set[Path]:
    """Return the directories below `root` that a process has open, or a file in which it has so or mapped."""
    base = f"{root.resolve()}/"
    found: set[Path] = set()
    for name in _opened():
        if name.startswith(base):
            path = Path(name.removesuffix(" (deleted)"))
            found |= {path, path.parent}
    return found


def _opened() -> Iterator[str]:
    for process in PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            for handle in os.scandir(process / "fd"):
                with suppress(OSError):
                    yield os.readlink(handle.path)
        with suppress(OSError):
            for line in (process / "maps").read_text(errors="replace").splitlines():
                if "/" in line:
                    yield line[line.index("/") :]


def _size(directory: Path) -> int:
    # A file that another image shares is not freed.
    stats = [path.lstat() for path in directory.iterdir()]
    return sum(stat.st_blocks * _BLOCK_BYTES for stat in stats if stat.st_nlink == 1)
