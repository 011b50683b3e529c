"""Builds an image: parts from the cache or anew, assembled, booted once, then installed.

# Rules
- Everything is made under a unique name in the images directory and moved to its place by
  one rename, so a build that dies leaves nothing that looks like an image.
- One build at a time per images directory (a file lock); the next one finds the parts made.
- The root file system is cached by what it is made from; an agent's change makes a new initrd only.
- An image becomes `current` only after it has booted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.images.agent_archive import agent_archive
from sandfleet.images.apt_sources import Mirrors
from sandfleet.images.boot_test import boot_test
from sandfleet.images.commands import Progress, remove_tree
from sandfleet.images.disks import DATA_SIZE_MIB, ROOT_SIZE_MIB
from sandfleet.images.errors import ImageBuildFailed, ImageNotFound
from sandfleet.images.initrd import build_initrd
from sandfleet.images.installed import InstalledImage, file_digest, find_image, load_image, verify_image
from sandfleet.images.machine_mirrors import machine_mirrors
from sandfleet.images.manifest import FILE_NAMES, FORMAT, Manifest, digest_of, encode
from sandfleet.images.root import SUITE, build_root

PACKAGE_DIR = Path(__file__).parent
GUEST_DIR = PACKAGE_DIR / "guest"
SOURCE_DIR = PACKAGE_DIR.parents[1]
# What each part is made from, ourselves included: the files whose change makes it anew.
ROOT_INPUTS = (
    "root.py",
    "disks.py",
    "npm.py",
    "guest/packages.txt",
    "guest/customise.sh",
    "guest/osb-enter.c",
    "guest/mke2fs.conf",
)
INITRD_INPUTS = ("initrd.py", "cpio.py", "agent_archive.py", "guest/init", "guest/modules.txt")
FREE_MIB_NEEDED = 4096
PARTS_KEPT = 3
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class BuildRoom:
    """Where one build works: its own directory, and the cache that builds share."""

    images_dir: Path
    work: Path

    @property
    def parts_dir(self) -> Path:
        """Root file systems by the digest of what they are made from."""
        return self.images_dir / ".parts"


def build_image(name: str, *, images_dir: Path, progress: Progress, refresh: bool = False) -> InstalledImage:
    """Build (or find) the image `name` from this version of sandfleet and make it current.

    `refresh` installs Debian anew even if nothing that we ask for has changed,
    which picks up the distribution's own updates.
    """
    if not _NAME.fullmatch(name):
        raise ImageBuildFailed(f"{name!r} is no name for an image: lower-case letters, digits, - and _")
    _check_host(images_dir)
    with _build_room(images_dir, progress=progress) as room:
        mirrors = machine_mirrors()
        agent = agent_archive(SOURCE_DIR)
        inputs = {"root": root_inputs_digest(mirrors), "initrd": initrd_inputs_digest(agent)}
        installed = None if refresh else _installed_from(name, images_dir=images_dir, inputs=inputs)
        if installed is not None:
            progress(f"image {name} {installed.digest[:12]} is up to date")
            return installed
        parts = _root_parts(room, inputs["root"], mirrors=mirrors, refresh=refresh, progress=progress)
        image_dir = room.work / "image"
        _assemble(image_dir, parts=parts, agent=agent)
        progress("digesting")
        manifest = _describe(image_dir, name=name, inputs=inputs, kernel=(parts / "kernel").read_text())
        progress("booting it once")
        boot_test(load_image(image_dir))
        return _install(image_dir, manifest, images_dir=images_dir, progress=progress)


def root_inputs_digest(mirrors: Mirrors) -> str:
    """Return the digest of all that decides what the root file system becomes."""
    return _inputs_digest(ROOT_INPUTS, f"{mirrors.main} {mirrors.security}".encode())


def initrd_inputs_digest(agent: bytes) -> str:
    """Return the digest of all that decides what the initrd becomes, given a root file system."""
    return _inputs_digest(INITRD_INPUTS, agent)


def _inputs_digest(names: Sequence[str], other: bytes) -> str:
    digest = hashlib.sha256()
    for content in (*((PACKAGE_DIR / name).read_bytes() for name in names), other):
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def _check_host(images_dir: Path) -> None:
    if os.geteuid() != 0:
        raise ImageBuildFailed("building an image needs root: mmdebstrap installs a system")
    images_dir.mkdir(parents=True, exist_ok=True)
    free_mib = shutil.disk_usage(images_dir).free // 2**20
    if free_mib < FREE_MIB_NEEDED:
        raise ImageBuildFailed(f"{images_dir} has {free_mib} MiB free, a build needs {FREE_MIB_NEEDED}")


@contextlib.contextmanager
def _build_room(images_dir: Path, *, progress: Progress) -> Iterator[BuildRoom]:
    with (images_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)  # the other build's steps all have bounds
        work_dir = images_dir / ".work"
        # Whatever is there was left by a build that died: we hold the lock.
        remove_tree(work_dir)
        work = work_dir / uuid.uuid4().hex
        work.mkdir(parents=True)
        try:
            yield BuildRoom(images_dir, work)
        finally:
            remove_tree(work)


def _installed_from(name: str, *, images_dir: Path, inputs: dict[str, str]) -> InstalledImage | None:
    try:
        image = find_image(name, images_dir=images_dir)
    except ImageNotFound:
        return None
    return image if image.manifest.inputs == inputs else None


def _root_parts(room: BuildRoom, key: str, *, mirrors: Mirrors, refresh: bool, progress: Progress) -> Path:
    parts = room.parts_dir / key
    if (parts / "kernel").is_file() and not refresh:
        progress("the root file system is in the cache")
        parts.touch()  # what was used last is kept longest
        return parts
    made = room.work / "parts"
    made.mkdir()
    build_root(made, guest_dir=GUEST_DIR, mirrors=mirrors, progress=progress)
    room.parts_dir.mkdir(exist_ok=True)
    remove_tree(parts)
    made.rename(parts)
    _prune(room.parts_dir)
    return parts


def _prune(parts_dir: Path) -> None:
    """Remove root file systems that no build has used lately; images keep their own links to the files."""
    by_use = sorted(parts_dir.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for parts in by_use[PARTS_KEPT:]:
        remove_tree(parts)


def _assemble(image_dir: Path, *, parts: Path, agent: bytes) -> None:
    image_dir.mkdir()
    initrd = build_initrd(
        modules_tar=parts / "modules.tar", busybox=parts / "busybox", agent=agent, guest_dir=GUEST_DIR
    )
    (image_dir / "initrd").write_bytes(initrd)
    for name in ("vmlinuz", "root.qcow2", "data.qcow2"):
        # One copy on disk, however many images share it. Nobody may ever write to it.
        (parts / name).chmod(0o444)
        (image_dir / name).hardlink_to(parts / name)


def _describe(image_dir: Path, *, name: str, inputs: dict[str, str], kernel: str) -> Manifest:
    files = {file: file_digest(image_dir / file) for file in FILE_NAMES}
    manifest = Manifest(
        format=FORMAT,
        name=name,
        digest=digest_of(files),
        architecture="x86_64",
        suite=SUITE,
        kernel=kernel,
        root_size_mib=ROOT_SIZE_MIB,
        data_size_mib=DATA_SIZE_MIB,
        inputs=inputs,
        files=files,
    )
    (image_dir / "manifest.json").write_bytes(encode(manifest))
    for path in image_dir.iterdir():
        path.chmod(0o444)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return manifest


def _install(image_dir: Path, manifest: Manifest, *, images_dir: Path, progress: Progress) -> InstalledImage:
    home = images_dir / manifest.name
    home.mkdir(exist_ok=True)
    target = home / manifest.digest
    if target.exists():
        # Equal bytes under another description, for example after a refresh that found no news.
        (image_dir / "manifest.json").replace(target / "manifest.json")
    else:
        image_dir.rename(target)
    pointer = home / f".current-{uuid.uuid4().hex}"
    pointer.symlink_to(manifest.digest)
    pointer.replace(home / "current")
    image = find_image(manifest.name, images_dir=images_dir)
    verify_image(image)
    progress(f"image {image.name} {image.digest[:12]} installed in {target}")
    return image
