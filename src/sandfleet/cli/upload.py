"""Copying into a sandbox: a file, a directory with all in it, or standard input."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandfleet.cli.copy_paths import LocalPath, RemotePath, joined
from sandfleet.cli.errors import CommandFailed, ExitCode
from sandfleet.cli.output import tell
from sandfleet_sdk import Client, pieces_of

Advance = Callable[[int], object]
_CHMOD_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Upload:
    """What is to be made in the sandbox: directories first, then files."""

    folders: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]
    skipped: tuple[Path, ...]

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(path.stat().st_size for path, _ in self.files)


def plan_upload(client: Client, source: LocalPath, destination: RemotePath) -> Upload:
    """Decide what goes where, as `cp -r` would: into a directory that exists, else under the new name."""
    path = source.path
    if not path.exists():
        raise CommandFailed(f"{path}: no such file or directory", code=ExitCode.NOT_FOUND)
    target = destination.path
    entry = client.files.find(destination.sandbox, target)
    is_inside = destination.means_directory or (entry is not None and entry.is_directory)
    if is_inside:
        target = joined(target, path.resolve().name)
    if path.is_file():
        return Upload((), ((path, target),), ())
    return _tree(path, target)


def upload(client: Client, plan: Upload, sandbox: str, *, advance: Advance) -> None:
    """Carry a plan out."""
    for folder in plan.folders:
        client.files.make_directory(sandbox, folder)
    for path, target in plan.files:
        client.files.upload(sandbox, target, lambda path=path: _counted(path, advance))  # type: ignore[misc]
    _make_executable(client, sandbox, [target for path, target in plan.files if os.access(path, os.X_OK)])
    for path in plan.skipped:
        tell(f"skipped: {path} is neither a file nor a directory")


def upload_stream(client: Client, destination: RemotePath) -> None:
    """Write standard input to a file."""
    if destination.means_directory:
        raise CommandFailed("standard input needs the name of a file", code=ExitCode.USAGE)
    stream = sys.stdin.buffer
    # What has been read from a pipe cannot be read again, so this upload cannot be repeated.
    client.files.upload(destination.sandbox, destination.path, lambda: pieces_of(stream), repeatable=False)


def _tree(root: Path, target: str) -> Upload:
    folders = [target]
    files: list[tuple[Path, str]] = []
    skipped: list[Path] = []
    for folder, names, leaves in os.walk(root):
        below = Path(folder).relative_to(root)
        here = target if below == Path(".") else joined(target, below.as_posix())
        links = [name for name in names if Path(folder, name).is_symlink()]
        folders.extend(joined(here, name) for name in sorted(names) if name not in links)
        for name in sorted([*leaves, *links]):
            path = Path(folder, name)
            if path.is_file():
                files.append((path, joined(here, name)))
            else:
                skipped.append(path)
    return Upload(tuple(folders), tuple(files), tuple(skipped))


def _counted(path: Path, advance: Advance) -> Iterator[bytes]:
    with path.open("rb") as stream:
        for piece in pieces_of(stream):
            yield piece
            advance(len(piece))


def _make_executable(client: Client, sandbox: str, targets: Sequence[str]) -> None:
    # New files have mode 0644; the bit that makes scripts run is worth a command.
    for start in range(0, len(targets), _CHMOD_AT_ONCE):
        words = " ".join(shlex.quote(target) for target in targets[start : start + _CHMOD_AT_ONCE])
        result = client.commands.run(sandbox, f"sudo chmod +x -- {words}")
        if result.exit_code != 0:
            tell(f"not made executable: {result.stderr.strip()[:300]}")
