"""The memory of templates, kept where a private mapping of it can be watched for writes.

Facts: a guest whose memory maps a file on a disk cannot be saved in the background, because
the kernel watches only memory that has no disk file behind it; a file in a memory file system
can be watched. Reading a hole of such a file makes a page of it, which is charged to whoever read
first: a guest that fills its memory would be ended by its own limit for pages that all share.
So the copy has no holes: it costs the size of the template once, charged to the worker.

Rule 1: anybody may write to a memory file system, and what lies there runs in guests: a directory that
somebody else made, or may write to, is not used.
Rule 2: a copy that is being written is nobody's to remove: who writes holds the directory's lock.
Rule 3: each directory says whose templates it is for, and goes when those are gone.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandfleet.adapters.qemu.manifest import write_atomically
from sandfleet.adapters.qemu.template import MEMORY_FILE, Template

COPY_BUFFER_BYTES = 1 << 20
ORIGIN_FILE = ".of"


async def resident_memory(directory: Path, template: Template) -> tuple[Path, str | None]:
    """Return the memory file to clone from, and the reason if it can only be the one on disk."""
    wanted = directory / _name(template.version)
    try:
        if directory.exists():
            _require_own(directory)
        if not wanted.exists():
            await asyncio.to_thread(_copy, template.file(MEMORY_FILE), wanted)
    except OSError as error:
        reason = f"{directory} cannot hold a template's memory: {error.strerror}"
        return template.file(MEMORY_FILE), reason
    return wanted, None


def forget_others(directory: Path, *, versions: Collection[str]) -> None:
    """Give back the memory of templates that are no longer cloned; one that is asked for is copied again."""
    kept = {_name(version) for version in versions} | {ORIGIN_FILE}
    with suppress(OSError), _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
        for path in directory.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)


def forget_orphans(resident_dir: Path) -> None:
    """Give back the memory of templates whose directory was removed."""
    for directory in resident_dir.iterdir() if resident_dir.is_dir() else ():
        with suppress(OSError), _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if not Path((directory / ORIGIN_FILE).read_text()).exists():
                shutil.rmtree(directory)


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    """Hold the lock of our directory; OSError when it is another's, or held."""
    _require_own(directory)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def _require_own(directory: Path) -> None:
    for path in (directory.parent, directory):
        found = path.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if not is_ours or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(errno.EPERM, f"others may write to {path}")


def _name(version: str) -> str:
    return f"{version}.whole"


def _copy(source: Path, wanted: Path) -> None:
    """Copy a sparse file into one without holes; it appears when it is whole."""
    for directory in (wanted.parent.parent, wanted.parent):
        directory.mkdir(exist_ok=True, mode=0o755)
    with _locked(wanted.parent, fcntl.LOCK_SH):
        _copy_whole(source, wanted)
        origin = source.parents[1].resolve()
        write_atomically(wanted.parent / ORIGIN_FILE, os.fsencode(origin), durable=False)


def _copy_whole(source: Path, wanted: Path) -> None:
    fresh = wanted.with_name(f".{wanted.name}-{secrets.token_hex(4)}")
    try:
        with open(source, "rb") as reading, open(fresh, "xb") as writing:
            size = os.fstat(reading.fileno()).st_size
            free = shutil.disk_usage(wanted.parent).free
            if free < size:
                raise OSError(28, "it has too little room")
            os.posix_fallocate(writing.fileno(), 0, size)
            offset = 0
            while offset < size:
                piece = os.pread(reading.fileno(), COPY_BUFFER_BYTES, offset)
                if piece.count(0) != len(piece):
                    os.pwrite(writing.fileno(), piece, offset)
                offset += len(piece)
            os.fchmod(writing.fileno(), 0o444)
        fresh.replace(wanted)
    finally:
        fresh.unlink(missing_ok=True)
