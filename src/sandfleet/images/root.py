"""The guest's root file system: Debian as mmdebstrap installs it, made into the guest environment.

The result is a directory of parts that any number of images share:
`root.qcow2`, `data.qcow2`, `vmlinuz`, `modules.tar`, `busybox` and `kernel` (its release).
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandfleet.images.apt_sources import Mirrors, without_credentials
from sandfleet.images.commands import Progress, remove_tree, run
from sandfleet.images.disks import DATA_SHAPE, ROOT_SHAPE, DiskTools, make_data_tree, make_disk
from sandfleet.images.errors import ImageBuildFailed
from sandfleet.images.initrd import listed_names
from sandfleet.images.npm import fetch_npm, install_npm

SUITE = "trixie"
ARCHITECTURE = "amd64"
KEY_RING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BOOTSTRAP_TIMEOUT_S = 1800.0
# Settings of the machine's apt without which it could not reach its mirror either.
APT_SETTINGS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::https::CaInfo",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
)
# Manuals and translations: a quarter of the disk that nobody in a sandbox reads.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)


def build_root(work: Path, *, guest_dir: Path, mirrors: Mirrors, progress: Progress) -> None:
    """Fill the empty directory `work` with the parts of a guest."""
    tree = work / "tree"
    began = work / "began"
    began.touch()
    progress(f"installing Debian {SUITE} from {without_credentials(mirrors.main)}")
    _bootstrap(tree, guest_dir=guest_dir, mirrors=mirrors)
    progress("adding npm")
    install_npm(fetch_npm(), root=tree)
    kernel = _take_kernel(tree, work)
    _write_guest_sources(tree, mirrors)
    epoch = _settle_times(tree, began_s=began.stat().st_mtime)
    tools = DiskTools(system=tree, mke2fs_conf=guest_dir / "mke2fs.conf", epoch=epoch)
    progress("making the root disk")
    make_disk(tree, work / "root.qcow2", shape=ROOT_SHAPE, tools=tools)
    progress("making the data disk")
    data_tree = work / "data-tree"
    make_data_tree(data_tree, skeleton=tree / "etc/skel", epoch=epoch)
    make_disk(data_tree, work / "data.qcow2", shape=DATA_SHAPE, tools=tools)
    (work / "kernel").write_text(kernel)
    remove_tree(tree)
    remove_tree(data_tree)


def source_lines(mirrors: Mirrors) -> Sequence[str]:
    """Return the lines of a `sources.list` for the guest's Debian."""
    return (
        f"deb {mirrors.main} {SUITE} main",
        f"deb {mirrors.main} {SUITE}-updates main",
        f"deb {mirrors.security} {SUITE}-security main",
    )


def _bootstrap(tree: Path, *, guest_dir: Path, mirrors: Mirrors) -> None:
    packages = ",".join(listed_names((guest_dir / "packages.txt").read_text()))
    customise = guest_dir / "customise.sh"
    if not KEY_RING.is_file():
        raise ImageBuildFailed(f"{KEY_RING} is missing: install debian-archive-keyring")
    options = ["--quiet", "--mode=root", "--format=directory", "--variant=minbase"]
    options += [f"--architectures={ARCHITECTURE}", f"--keyring={KEY_RING}", f"--include={packages}"]
    options += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    options += [f"--aptopt={option}" for option in _apt_settings()]
    options += ['--aptopt=Acquire::Retries "3"', f'--customize-hook=sh "{customise}" "$1"']
    # The kernel's own initrd would be made and thrown away.
    env = {"INITRD": "No", "LC_ALL": "C.UTF-8", "TMPDIR": str(tree.parent)}
    run(
        [*_isolation(), "mmdebstrap", *options, SUITE, tree, "-"],
        timeout_s=BOOTSTRAP_TIMEOUT_S,
        env=env,
        stdin="\n".join(source_lines(mirrors)).encode() + b"\n",
    )


def _isolation() -> Sequence[str]:
    """Return what starts mmdebstrap so that nothing it mounts or starts outlives the build."""
    return (
        *("setpriv", "--pdeathsig", "KILL"),
        *own_mounts(),
        *("--pid", "--fork", "--kill-child", "--mount-proc"),
    )


def own_mounts() -> Sequence[str]:
    """Return the beginning of a command whose program mounts for itself alone."""
    # Inside a chroot the root directory is no mount, and its propagation is not ours to change.
    propagation = "private" if _is_mount_point("/") else "unchanged"
    return ("unshare", "--mount", "--propagation", propagation)


def _is_mount_point(path: str) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == path for line in lines)


def _apt_settings() -> Sequence[str]:
    text = run(["apt-config", "dump", "Acquire"], timeout_s=30)
    values: Mapping[str, str] = dict(re.findall(r'^([\w:-]+) "([^"]*)";', text, re.MULTILINE))
    by_lower = {name.lower(): value for name, value in values.items()}
    return [f'{name} "{by_lower[name.lower()]}"' for name in APT_SETTINGS if by_lower.get(name.lower())]


def _take_kernel(tree: Path, work: Path) -> str:
    (modules,) = (tree / "usr/lib/modules").iterdir()
    (work / "vmlinuz").write_bytes((tree / "boot" / f"vmlinuz-{modules.name}").read_bytes())
    for path in (tree / "boot").iterdir():
        path.unlink()
    with tarfile.open(work / "modules.tar", "w") as archive:
        for path in sorted(modules.rglob("*")):
            if path.is_file():
                archive.add(path, arcname=path.relative_to(modules).as_posix())
    (work / "busybox").write_bytes((tree / "usr/bin/busybox").read_bytes())
    return modules.name


def _write_guest_sources(tree: Path, mirrors: Mirrors) -> None:
    public = Mirrors(without_credentials(mirrors.main), without_credentials(mirrors.security))
    for path in (tree / "etc/apt/sources.list.d").iterdir():
        path.unlink()
    (tree / "etc/apt/sources.list").write_text("\n".join(source_lines(public)) + "\n")
    # mmdebstrap leaves what only the build needed: the machine's proxy is not the guest's.
    (tree / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)


def _settle_times(tree: Path, *, began_s: float) -> int:
    """Give all files that the build itself wrote the time of the newest file out of a package."""
    paths = [tree, *(Path(base) / name for base, dirs, files in os.walk(tree) for name in (*dirs, *files))]
    times = {path: path.lstat().st_mtime for path in paths}
    epoch = int(max((time_s for time_s in times.values() if time_s < began_s), default=0))
    for path, time_s in times.items():
        if time_s > epoch:
            os.utime(path, (epoch, epoch), follow_symlinks=False)
    return epoch
