"""The two disks of a guest as sparse qcow2 files made from directory trees.

Sizes, identifiers and hash seeds are fixed and the guest's own mke2fs does the work, so
equal trees give equal file systems on every host.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sandfleet.images.commands import run

USER_ID = 1000
ROOT_SIZE_MIB = 8192
DATA_SIZE_MIB = 20480
DATA_LABEL = "sandfleet-data"
APT_CACHE = ".osb-apt-cache"
MKE2FS_TIMEOUT_S = 300.0
CONVERT_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class DiskShape:
    """What a disk's file system is called and how large it appears."""

    label: str
    size_mib: int
    journal_mib: int
    uuid: str


ROOT_SHAPE = DiskShape("sandfleet-root", ROOT_SIZE_MIB, 32, "5a0df1ee-0000-4000-8000-00000000000a")
DATA_SHAPE = DiskShape(DATA_LABEL, DATA_SIZE_MIB, 64, "5a0df1ee-0000-4000-8000-00000000000b")


@dataclass(frozen=True, slots=True)
class DiskTools:
    """What file systems are made with: mke2fs out of a guest's `system` tree, its configuration, and a date.

    Older mke2fs would put the host's present time into every inode.
    """

    system: Path
    mke2fs_conf: Path
    epoch: int

    def mke2fs(self) -> list[Path | str]:
        """Return the start of a command that runs the guest's mke2fs on the host."""
        loader = self.system / "usr/lib64/ld-linux-x86-64.so.2"
        libraries = self.system / "usr/lib/x86_64-linux-gnu"
        return [loader, "--library-path", libraries, self.system / "usr/sbin/mke2fs"]


def make_disk(tree: Path, target: Path, *, shape: DiskShape, tools: DiskTools) -> None:
    """Write an ext4 file system with the content of `tree` to the qcow2 file `target`."""
    raw = target.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(shape.size_mib * 1024 * 1024)
    env = {
        "MKE2FS_CONFIG": str(tools.mke2fs_conf),
        "SOURCE_DATE_EPOCH": str(tools.epoch),
        "E2FSPROGS_FAKE_TIME": str(tools.epoch),
    }
    options = ["-q", "-F", "-t", "ext4", "-m", "1", "-L", shape.label, "-U", shape.uuid]
    options += ["-E", f"hash_seed={shape.uuid},root_owner=0:0", "-J", f"size={shape.journal_mib}"]
    run([*tools.mke2fs(), *options, "-d", tree, raw], timeout_s=MKE2FS_TIMEOUT_S, env=env)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "lazy_refcounts=off"]
    run([*convert, raw, target], timeout_s=CONVERT_TIMEOUT_S)
    raw.unlink()


def make_data_tree(tree: Path, *, skeleton: Path, epoch: int) -> None:
    """Lay out the data disk: `home/` (filled as a new user's is) and `workspace/`, owned by the user."""
    home = tree / "home"
    for directory in (home, tree / "workspace", home / APT_CACHE / "partial"):
        directory.mkdir(parents=True)
    for source in sorted(skeleton.iterdir()):
        if source.is_file():
            (home / source.name).write_bytes(source.read_bytes())
    for path in sorted(tree.rglob("*")):
        # apt's cache lies in the user's home but is the system's.
        owner = 0 if APT_CACHE in path.parts else USER_ID
        os.chown(path, owner, owner)
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, (epoch, epoch))
