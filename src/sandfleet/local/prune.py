"""`image prune`: what of this machine's images and templates may go, and its removal."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.qemu.host_claim import known_data_dirs
from sandfleet.adapters.qemu.prune import (
    Unused,
    no_build,
    published_templates,
    remove,
    unused_images,
    unused_templates,
)
from sandfleet.local.image import images_dir, templates_dir
from sandfleet.local.layout import Layout, default_data_dir

Report = Callable[[str, Path, int], object]


def prune(data_dir: Path | None, *, dry_run: bool, report: Report) -> list[Unused]:
    """Remove what nothing needs, each reported before it goes; return it."""
    if os.geteuid() != 0:
        raise PermissionError("only root sees which files are in use: run it with sudo")
    now_s = SystemClock().now().timestamp()
    with ExitStack() as locks:
        for directory in (images_dir(), templates_dir()):
            if directory.is_dir():
                locks.enter_context(no_build(directory))
        templates = unused_templates(templates_dir(), data_dirs=_data_dirs(data_dir), now_s=now_s)
        going = {one.path for one in templates}
        staying = [path for path in published_templates(templates_dir()) if path not in going]
        unused = [*templates, *unused_images(images_dir(), templates=staying, now_s=now_s)]
        for one in unused:
            report(one.kind, one.path, one.size_bytes)
            if not dry_run:
                remove([one])
    return unused


def _data_dirs(data_dir: Path | None) -> list[Path]:
    """Return where workers of this machine keep their machines, as far as it is known."""
    fleets = {default_data_dir(), *([data_dir] if data_dir else [])}
    own = [path for fleet in fleets for path in Layout(fleet).worker_data("x").parent.glob("*")]
    return [*own, *known_data_dirs()]
