"""Paths as the caller gives them, and the entries that are told of them."""

from __future__ import annotations

import os
import stat
from typing import Any

from sandfleet.agent.places import Places
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed

NEVER_DELETED = frozenset({"/", "/dev", "/proc", "/sys"})


def path_of(fields: Fields, places: Places) -> str:
    """Return the request's path from the root."""
    path = fields.text("path")
    if not path or "\0" in path:
        raise OperationFailed(Code.BAD_REQUEST, "no path, or a NUL byte in it")
    return places.absolute(path)


def entry_of(path: str, *, name: str, facts: os.stat_result) -> dict[str, Any]:
    """Return what the host is told of one file or directory."""
    return {
        "name": name,
        "path": path,
        "is_dir": stat.S_ISDIR(facts.st_mode),
        "size": facts.st_size,
        "mode": stat.S_IMODE(facts.st_mode),
        "mtime_s": facts.st_mtime,
    }


def make_directories(path: str, places: Places, *, user_ids: tuple[int, int] | None) -> None:
    """Make `path` and its parents; what is made in the user's places belongs to the user."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise OperationFailed(Code.NOT_A_DIRECTORY, f"not a directory: {directory}") from None
        else:
            give_to_user(directory, places, user_ids=user_ids)


def give_to_user(path: str, places: Places, *, user_ids: tuple[int, int] | None) -> None:
    """Let what was just made belong to the user if it is in the user's places."""
    if user_ids is not None and places.belongs_to_user(os.path.realpath(path)):
        os.lchown(path, *user_ids)
