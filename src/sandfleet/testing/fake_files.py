"""A file system in a dictionary, with the errors of the real one."""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterable, AsyncIterator, Sequence

from sandfleet.model.errors import BadRequest, GuestDiskFull, NotFound
from sandfleet.ports.guest import FileEntry
from sandfleet.wire.file_requests import UNDELETABLE, resolved

_CHUNK_BYTES = 64 * 1024
_FILE_MODE, _DIRECTORY_MODE = 0o644, 0o755


class FakeFiles:
    """Directories and whole files by absolute path."""

    def __init__(self, *, bytes_max: int = 64 * 1024**2) -> None:
        self.files: dict[str, bytes] = {}
        self.directories = {"/", "/home", "/home/sandbox", "/workspace", "/tmp", "/dev", "/proc", "/sys"}  # noqa: S108 -- a fake's
        self._bytes_max = bytes_max

    def stat(self, path: str) -> FileEntry:
        """Return what stands at `path`."""
        return self._entry(self._existing(path))

    def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Return the entries by name."""
        where = self._existing(path)
        if where not in self.directories:
            raise BadRequest(f"{path} is not a directory", code="not_a_directory")
        names = sorted(name for name in {*self.files, *self.directories} if name != "/")
        return [self._entry(name) for name in names if posixpath.dirname(name) == where]

    def make_directory(self, path: str) -> None:
        """Like `mkdir -p`."""
        where = resolved(path)
        while where not in self.directories:
            if where in self.files:
                raise BadRequest(f"{path} is not a directory", code="not_a_directory")
            self.directories.add(where)
            where = posixpath.dirname(where)

    def delete(self, path: str) -> None:
        """Remove `path` and all below it."""
        where = resolved(path)
        if where in UNDELETABLE:
            raise BadRequest(f"{path} cannot be deleted")
        below = f"{where}/"
        self.files = {name: data for name, data in self.files.items() if not _is_at(name, where, below)}
        self.directories = {name for name in self.directories if not _is_at(name, where, below)}

    async def read(self, path: str) -> AsyncIterator[bytes]:
        """Yield the content."""
        where = self._existing(path)
        if where in self.directories:
            raise BadRequest(f"{path} is a directory", code="is_directory")
        content = self.files[where]
        for start in range(0, len(content), _CHUNK_BYTES):
            yield content[start : start + _CHUNK_BYTES]

    async def write(self, path: str, chunks: AsyncIterable[bytes]) -> int:
        """Replace the file when all of it has come."""
        where = resolved(path)
        if where in self.directories:
            raise BadRequest(f"{path} is a directory", code="is_directory")
        self.make_directory(posixpath.dirname(where))
        content = bytearray()
        async for chunk in chunks:
            content += chunk
            if len(content) > self._bytes_max:
                raise GuestDiskFull("no space left in the sandbox")
        self.files[where] = bytes(content)
        return len(content)

    def _existing(self, path: str) -> str:
        where = resolved(path)
        if where not in self.files and where not in self.directories:
            raise NotFound(f"{path} does not exist")
        return where

    def _entry(self, where: str) -> FileEntry:
        is_dir = where in self.directories
        return FileEntry(
            name=posixpath.basename(where) or "/",
            path=where,
            is_dir=is_dir,
            size=0 if is_dir else len(self.files[where]),
            mode=_DIRECTORY_MODE if is_dir else _FILE_MODE,
            mtime_s=0.0,
        )


def _is_at(name: str, where: str, below: str) -> bool:
    return name == where or name.startswith(below)
