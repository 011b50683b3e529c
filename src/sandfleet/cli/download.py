"""Copying out of a sandbox: a file, a directory with all in it, or to standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandfleet.cli.copy_paths import LocalPath, RemotePath, joined, safe_name
from sandfleet.cli.errors import CommandFailed, ExitCode
from sandfleet_sdk import Client, FileEntry

Advance = Callable[[int], object]
_DEPTH_MAX = 100
_EXECUTABLE = 0o111


@dataclass(frozen=True, slots=True)
class Download:
    """What is to be made here: directories first, then files."""

    folders: tuple[Path, ...]
    files: tuple[tuple[FileEntry, Path], ...]

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(entry.size for entry, _ in self.files)


def plan_download(client: Client, source: RemotePath, destination: LocalPath) -> Download:
    """Decide what goes where, as `cp -r` would: into a directory that exists, else under the new name."""
    entry = client.files.find(source.sandbox, source.path)
    if entry is None:
        raise CommandFailed(
            f"{source.path}: no such file or directory in {source.sandbox}", code=ExitCode.NOT_FOUND
        )
    target = destination.path
    if destination.means_directory or target.is_dir():
        target = target / (source.path.rstrip("/").rpartition("/")[2] or "root")
    if not entry.is_directory:
        return Download((target.parent,), ((_at(entry, source.path), target),))
    folders: list[Path] = [target]
    files: list[tuple[FileEntry, Path]] = []
    _walk(client, source.sandbox, source.path, target, into=(folders, files))
    return Download(tuple(folders), tuple(files))


def download(client: Client, plan: Download, sandbox: str, *, advance: Advance) -> None:
    """Carry a plan out; each file appears only when it is complete."""
    for folder in plan.folders:
        folder.mkdir(parents=True, exist_ok=True)
    for entry, target in plan.files:
        _fetch(client, sandbox, entry, target, advance)


def download_stream(client: Client, source: RemotePath) -> None:
    """Write a file to standard output."""
    client.files.download(source.sandbox, source.path, sys.stdout.buffer.write)
    sys.stdout.buffer.flush()


def _fetch(client: Client, sandbox: str, entry: FileEntry, target: Path, advance: Advance) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:

            def take(piece: bytes) -> None:
                stream.write(piece)
                advance(len(piece))

            client.files.download(sandbox, entry.path, take)
        if entry.mode and int(entry.mode, 8) & _EXECUTABLE:
            part.chmod(part.stat().st_mode | _EXECUTABLE)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _walk(
    client: Client,
    sandbox: str,
    folder: str,
    target: Path,
    *,
    into: tuple[list[Path], list[tuple[FileEntry, Path]]],
) -> None:
    pending = [(folder, target, 0)]
    while pending:
        here, local, depth = pending.pop()
        if depth > _DEPTH_MAX:
            raise CommandFailed(f"{here}: directories are nested more than {_DEPTH_MAX} deep")
        for entry in client.files.list(sandbox, here):
            path, below = joined(here, safe_name(entry.name)), local / safe_name(entry.name)
            if entry.is_directory:
                into[0].append(below)
                pending.append((path, below, depth + 1))
            else:
                into[1].append((_at(entry, path), below))


def _at(entry: FileEntry, path: str) -> FileEntry:
    # The path that was asked for, not the one that the sandbox reports.
    return FileEntry(
        name=entry.name, path=path, is_directory=entry.is_directory, size=entry.size, mode=entry.mode
    )
