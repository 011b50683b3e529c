"""Small files of a guest's identity: names in /etc that lead to files in memory.

Fact: a write to the root disk makes its journal commit five seconds later. In a translated guest
that costs a tenth of a second and megabytes, in each clone, for files that are written anew at
each start.
"""

from __future__ import annotations

import os

DIRECTORY = "/run/sandfleet"
SMALL_BYTES = 4096


def link_into_memory(link: str, target: str) -> None:
    """Make `link` lead to `target`, a file in memory, unless it is a link already."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(link):
        return
    fresh = f"{link}.sandfleet"
    os.symlink(target, fresh)
    os.replace(fresh, link)


def overwrite(path: str, text: str) -> None:
    """Replace a small file's content in place: ext4 writes a truncated one to the disk at once."""
    content = text.encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content)
        if os.fstat(fd).st_size > len(content):
            os.ftruncate(fd, len(content))
    finally:
        os.close(fd)


def content_of(path: str) -> str:
    """Return a small file's content without the space around it, empty when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, SMALL_BYTES).decode(errors="replace").strip()
    finally:
        os.close(fd)
