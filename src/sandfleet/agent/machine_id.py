"""The machine id: random, in memory, and on the disk before anybody can have seen it.

Rule 1: `/etc/machine-id` leads to a file in memory; a guest that nobody has used has written nothing.
Rule 2: it is kept on the disk before the first command or file of a tenant, so that a guest that is
booted anew from its disks is still known by it.
Rule 3: a disk that holds the id of another guest (a fork's) gets the new one at once.
"""

from __future__ import annotations

import os

from sandfleet.agent.identity_files import DIRECTORY, content_of, hold, link_into_memory, overwrite

LINK = "/etc/machine-id"
MEMORY = f"{DIRECTORY}/machine-id"
KEPT = "/var/lib/sandfleet/machine-id"
_NOTHING = "\n" * 33
"""As long as an id, so that an id takes no new place, on the disk or in memory."""
_on_disk = [False]
"""Whether the disk holds an id; a guest that has become somebody need not look."""


def lay_out() -> None:
    """At boot: bring what is kept into memory, and make room on the disk where there is none."""
    before = "" if os.path.islink(LINK) else content_of(LINK)
    link_into_memory(LINK, MEMORY)
    os.makedirs(os.path.dirname(KEPT), exist_ok=True)
    known = content_of(KEPT) or before
    overwrite(MEMORY, f"{known}\n" if known else _NOTHING)
    if not os.path.exists(KEPT) or before:
        overwrite(KEPT, f"{known}\n" if known else _NOTHING)
    _on_disk[0] = bool(known)
    hold(MEMORY)


def is_there() -> bool:
    """Whether this guest has one."""
    return content_of(MEMORY) != ""


def make() -> None:
    """Make a new one."""
    overwrite(MEMORY, f"{os.urandom(16).hex()}\n")
    if _on_disk[0]:
        keep()


def forget() -> None:
    """Have none again, in a guest whose disk has none."""
    if not _on_disk[0]:
        overwrite(MEMORY, _NOTHING)


def keep() -> None:
    """Write it to the disk, if another or none is there."""
    mine = content_of(MEMORY)
    if mine and content_of(KEPT) != mine:
        overwrite(KEPT, f"{mine}\n")
    _on_disk[0] = bool(mine)
