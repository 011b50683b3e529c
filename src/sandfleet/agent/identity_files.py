"""Small files of a guest's identity: names in /etc that lead to files in memory.

Facts: a write to the root disk makes its journal commit five seconds later. In a translated guest
that costs a tenth of a second and megabytes, in each clone, for files that are written anew at
each start. To open a file for the first time costs it another hundredth.

So what is written before anybody uses the guest is held open, from the template on. Whoever uses it
may put something else under the name: from then on the name counts (`let_go`).
"""

from __future__ import annotations

import os

DIRECTORY = "/run/sandfleet"
SMALL_BYTES = 4096


class _Held:
    """An open file, and how long it is: nobody else writes to it."""

    def __init__(self, path: str) -> None:
        self.fd = _open(path)
        self.length = os.fstat(self.fd).st_size


_held: dict[str, _Held] = {}


def link_into_memory(link: str, target: str) -> None:
    """Make `link` lead to `target`, a file in memory, unless it is a link already."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(link):
        return
    fresh = f"{link}.sandfleet"
    os.symlink(target, fresh)
    os.replace(fresh, link)


def hold(path: str) -> None:
    """Keep a file open for those who overwrite it, until `let_go`."""
    if path not in _held:
        _held[path] = _Held(path)


def let_go() -> None:
    """Close what is held."""
    while _held:
        os.close(_held.popitem()[1].fd)


def overwrite(path: str, text: str) -> None:
    """Replace a small file's content in place: ext4 writes a truncated one to the disk at once."""
    content = text.encode()
    held = _held.get(path)
    if held is not None:
        held.length = _replace(held.fd, content, length=held.length)
        return
    fd = _open(path)
    try:
        _replace(fd, content, length=os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _replace(fd: int, content: bytes, *, length: int) -> int:
    os.pwrite(fd, content, 0)
    if length > len(content):
        os.ftruncate(fd, len(content))
    return len(content)


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
