"""An empty qcow2 overlay, written in one go.

Facts: the tool that makes one is a process of its own, which costs 10 to 20 ms, and every load and
checkpoint needs two. An empty overlay is a header and tables that say that nothing is there:
the cluster of the header, those of the reference counts, then an L1 table of zeros.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from sandfleet.model.errors import HypervisorFailed

MAGIC = b"QFI\xfb"
_VERSION = 3
_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_REFCOUNT_ORDER = 4
"""Reference counts of 16 bits: the tool's own choice."""
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQIIQ")
_L2_BYTES = _CLUSTER * (_CLUSTER // 8)
"""What of a disk one entry of the L1 table stands for."""
_BACKING_FORMAT = (0xE2792ACA, b"qcow2")
_NAME_BYTES_MAX = 1023


def write_empty_overlay(overlay: Path, *, backing: Path, size_bytes: int) -> None:
    """Make a new overlay of a disk of `size_bytes` whose header names `backing`, a qcow2 file."""
    name = os.fsencode(backing)
    if len(name) > _NAME_BYTES_MAX:
        raise HypervisorFailed(f"{backing} is too long a name for the header of a disk")
    entries = -(-size_bytes // _L2_BYTES)
    tables = -(-entries * 8 // _CLUSTER)
    try:
        with open(overlay, "xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(_header(name, size_bytes=size_bytes, entries=entries))
            file.seek(_CLUSTER)
            file.write(struct.pack(">Q", 2 * _CLUSTER))  # the first block of reference counts
            file.seek(2 * _CLUSTER)
            file.write(struct.pack(">H", 1) * (3 + tables))
            file.truncate((3 + tables) * _CLUSTER)
    except OSError as error:
        raise HypervisorFailed(f"overlay {overlay} cannot be made: {error}") from error


def _header(name: bytes, *, size_bytes: int, entries: int) -> bytes:
    kind, form = _BACKING_FORMAT
    extensions = struct.pack(">II8s", kind, len(form), form) + struct.pack(">II", 0, 0)
    header = _HEADER.pack(
        MAGIC,
        _VERSION,
        _HEADER.size + len(extensions),
        len(name),
        _CLUSTER_BITS,
        size_bytes,
        0,  # not encrypted
        entries,
        3 * _CLUSTER,  # the L1 table
        _CLUSTER,  # the table of reference counts
        1,
        0,
        0,  # no snapshots inside
        0,
        0,
        0,  # no feature that a reader must know of
        _REFCOUNT_ORDER,
        _HEADER.size,
        0,  # the usual compression, for clusters that will be
    )
    return header + extensions + name
