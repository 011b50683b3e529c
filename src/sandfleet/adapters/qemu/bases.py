"""Removing backing files that were fetched for snapshots and that no disk stands on any more.

Rule 1: the backing of a disk is what its own header says; a layer that came from another host names
a path of that host, so what manifests of snapshots and machines name counts as well.
Rule 2: what is younger than an hour stays: it may have been fetched for a load that is under way.
Rule 3: a file that cannot be read might stand on anything, so nothing is removed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from sandfleet.adapters.qemu import snapshot_files
from sandfleet.adapters.qemu.manifest import MANIFEST_FILE, read_manifest
from sandfleet.model.errors import HypervisorFailed, SnapshotUnusable

AGE_S_MIN = 3600.0
_MAGIC = b"QFI\xfb"
_HEADER_BYTES = 20
_NAME_BYTES_MAX = 1023


def collect(data_dir: Path, bases: Path, *, now_s: float) -> list[str]:
    """Remove the bases that nothing stands on; return their names."""
    old = {path.name: path for path in bases.glob("*.qcow2") if now_s - path.stat().st_mtime >= AGE_S_MIN}
    if not old:
        return []
    try:
        used = set(_names_in_use(data_dir))
    except (OSError, HypervisorFailed, SnapshotUnusable):
        return []
    unused = sorted(set(old) - used)
    for name in unused:
        old[name].unlink()
    return unused


def _names_in_use(data_dir: Path) -> Iterator[str]:
    """Return the file names of all that is stood on; a base is named by its digest, wherever it lies."""
    machines = data_dir / "machines"
    directories = [path for path in machines.iterdir() if path.is_dir()] if machines.is_dir() else []
    for directory in directories:
        yield from _backings_of_layers(directory)
        if not (directory / MANIFEST_FILE).exists():
            continue  # it is just being made, or being removed: its layers have told
        manifest = read_manifest(directory)
        for chain in (manifest.root, manifest.data):
            yield from (Path(path).name for path in (chain.backings if chain is not None else ()))
    for directory in snapshot_files.complete(data_dir):
        yield from _backings_of_layers(directory)
        yield from (f"{digest}.qcow2" for digest in snapshot_files.read(directory).backings.values())


def _backings_of_layers(directory: Path) -> Iterator[str]:
    for layer in directory.glob("*.qcow2"):
        found = backing_of(layer)
        if found is not None:
            yield found.name


def backing_of(layer: Path) -> Path | None:
    """Return what a qcow2 file's header says it stands on."""
    with open(layer, "rb") as file:
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise HypervisorFailed(f"{layer} is no qcow2 file")
        offset, size = struct.unpack(">QI", header[8:20])
        if not offset:
            return None
        if size > _NAME_BYTES_MAX:
            raise HypervisorFailed(f"the header of {layer} is damaged")
        file.seek(offset)
        return Path(file.read(size).decode())
