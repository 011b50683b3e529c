"""The query of the file routes, checked once for both sides of the proxy."""

from __future__ import annotations

import posixpath
import re

from sandfleet.model.errors import BadRequest
from sandfleet.wire.json_fields import without_nul

HOME = "/home/sandbox"
UNDELETABLE = frozenset({"/", "/dev", "/proc", "/sys"})
_MANY_SLASHES = re.compile(r"/{2,}")


def required_path(path: str | None) -> str:
    """Return the path of a request that must name one."""
    if not path:
        raise BadRequest("path is required")
    return without_nul(path, "path")


def deletable_path(path: str | None) -> str:
    """Return the path of a delete. The guest refuses in addition what links lead to."""
    wanted = required_path(path)
    if resolved(wanted) in UNDELETABLE:
        raise BadRequest(f"{wanted} cannot be deleted")
    return wanted


def resolved(path: str) -> str:
    """Return the absolute path without `.`, `..` and doubled slashes; relative ones start at home."""
    return posixpath.normpath(_MANY_SLASHES.sub("/", posixpath.join(HOME, path)))
