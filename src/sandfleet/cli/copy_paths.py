"""What the arguments of `cp` mean: a path here, a path in a sandbox, or standard input and output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandfleet.cli.errors import CommandFailed, ExitCode

STREAM = "-"
HOME = "/home/sandbox"


@dataclass(frozen=True, slots=True)
class LocalPath:
    """A file or directory of this machine."""

    path: Path
    means_directory: bool = False


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A path in a sandbox; `means_directory`: it ended in a slash."""

    sandbox: str
    path: str
    means_directory: bool = False


@dataclass(frozen=True, slots=True)
class StandardStream:
    """Standard input as a source, standard output as a destination."""


Place = LocalPath | RemotePath | StandardStream


def parse_place(text: str) -> Place:
    """Read one argument. A colon before any slash means a sandbox; `./a:b` is a file of that name."""
    if text == STREAM:
        return StandardStream()
    sandbox, colon, path = text.partition(":")
    if colon and sandbox and "/" not in sandbox:
        chosen = path or HOME
        return RemotePath(sandbox, chosen, means_directory=chosen.endswith("/") or not path)
    if not text:
        raise CommandFailed("an empty path", code=ExitCode.USAGE)
    return LocalPath(Path(text), means_directory=text.endswith("/"))


def parse_places(source: str, destination: str) -> tuple[Place, Place]:
    """Read both arguments: exactly one of them is in a sandbox."""
    places = parse_place(source), parse_place(destination)
    remote = sum(isinstance(place, RemotePath) for place in places)
    if remote != 1:
        both = "both are" if remote else "neither is"
        raise CommandFailed(
            f"one of the two paths must be in a sandbox, {both}",
            hint="sandfleet cp FILE SANDBOX:PATH, or sandfleet cp SANDBOX:PATH FILE",
            code=ExitCode.USAGE,
        )
    return places


def joined(folder: str, name: str) -> str:
    """Return a path below a directory of a sandbox."""
    return f"{folder.rstrip('/')}/{name}"


def safe_name(name: str) -> str:
    """Return a name that a sandbox gave for an entry, refused unless it stays in its directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise CommandFailed(f"the sandbox lists an entry with an impossible name: {name!r}")
    return name
