"""The memory of templates, kept where a private mapping of it can be watched for writes.

Facts: a guest whose memory maps a file on a disk cannot be saved in the background, because
the kernel watches only memory that has no disk file behind it; a file in a memory file system
can be watched. Reading a hole of such a file makes a page of it, which is charged to whoever read
first: a guest that fills its memory would be ended by its own limit for pages that all share.
So the copy has no holes: it costs the size of the template once, charged to the worker.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from sandfleet.adapters.qemu.template import MEMORY_FILE, Template

COPY_BUFFER_BYTES = 1 << 20


async def resident_memory(directory: Path, template: Template) -> tuple[Path, str | None]:
    """Return the memory file to clone from, and the reason if it can only be the one on disk."""
    wanted = directory / _name(template.version)
    if wanted.exists():
        return wanted, None
    try:
        await asyncio.to_thread(_copy, template.file(MEMORY_FILE), wanted)
    except OSError as error:
        reason = f"{directory} cannot hold a template's memory: {error.strerror}"
        return template.file(MEMORY_FILE), reason
    return wanted, None


def forget_others(directory: Path, *, versions: Collection[str]) -> None:
    """Give back the memory of templates that are no longer cloned; one that is asked for is copied again."""
    kept = {_name(version) for version in versions}
    for path in directory.glob("*"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _name(version: str) -> str:
    return f"{version}.whole"


def _copy(source: Path, wanted: Path) -> None:
    """Copy a sparse file into one without holes; it appears when it is whole."""
    wanted.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
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
