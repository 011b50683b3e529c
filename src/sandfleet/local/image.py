"""Which guest image this machine's worker would start from."""

from __future__ import annotations

import os
from pathlib import Path

IMAGES_DIR_VARIABLE = "SANDFLEET_IMAGES_DIR"
TEMPLATES_DIR_VARIABLE = "SANDFLEET_TEMPLATES_DIR"
_NAME = "base"


def images_dir() -> Path:
    """Return where images lie."""
    if named := os.environ.get(IMAGES_DIR_VARIABLE):
        return Path(named)
    return _cache() / "images"


def current_image() -> Path | None:
    """Return the directory of the image that new templates start from, None if there is none."""
    link = images_dir() / _NAME / "current"
    return link.resolve() if (link / "manifest.json").exists() else None


def templates_dir() -> Path:
    """Return where the worker keeps its templates."""
    if named := os.environ.get(TEMPLATES_DIR_VARIABLE):
        return Path(named)
    return _cache() / "templates"


def _cache() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/sandfleet")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sandfleet"
