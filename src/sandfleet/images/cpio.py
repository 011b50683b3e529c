"""Writes the archive that the kernel unpacks as its first root file system ("newc" cpio).

Equal entries give equal bytes: entries are sorted, owned by root and carry no time.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass

TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class CpioFile:
    """One regular file."""

    content: bytes
    mode: int = 0o644


def cpio_archive(files: Mapping[str, CpioFile], *, directories: tuple[str, ...] = ()) -> bytes:
    """Return an archive of the files by path, with every directory they need and `directories`."""
    paths = {*directories}
    for path in (*files, *directories):
        while "/" in path:
            path = path.rpartition("/")[0]
            paths.add(path)
    archive = bytearray()
    entries: list[tuple[str, int, bytes]] = [(path, stat.S_IFDIR | 0o755, b"") for path in paths]
    entries += [(path, stat.S_IFREG | file.mode, file.content) for path, file in files.items()]
    for number, (path, mode, content) in enumerate(sorted(entries), start=1):
        archive += _entry(path, number=number, mode=mode, content=content)
    archive += _entry(TRAILER, number=0, mode=0, content=b"")
    return bytes(archive)


def _entry(path: str, *, number: int, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # ino, mode, uid, gid, nlink, mtime, size, device (2), special device (2), name length, checksum
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + "".join(f"{field:08x}" for field in fields).encode()
    return _padded(header + name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
