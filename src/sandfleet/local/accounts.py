"""Who runs the stores: PostgreSQL refuses root, and nothing that need not be root should be.

As root each service gets a numeric uid of its own from a range that neither
Debian's policy nor systemd hands out (60578-61183), so no entry in /etc/passwd
is needed. Different services have different uids: a stale PostgreSQL pid file
then never matches a living process of another service.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any


class ServiceUid(IntEnum):
    """The reserved uids."""

    POSTGRES = 60920
    VALKEY = 60921
    BALANCER = 60922


@dataclass(frozen=True, slots=True)
class Account:
    """The uid and gid a process runs as."""

    uid: int
    gid: int

    def popen_arguments(self) -> dict[str, Any]:
        """Return what `subprocess` needs to start a process as this account."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give a file or a tree to the account (only root can, and only root needs to)."""
        if os.geteuid() != 0:
            return
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)


def service_account(uid: ServiceUid) -> Account:
    """Return the account of a service: its reserved uid for root, else the caller's own."""
    if os.geteuid() == 0:
        return Account(int(uid), int(uid))
    return Account(os.geteuid(), os.getegid())


def named_account() -> Account:
    """Return an unprivileged account that /etc/passwd knows (`initdb` insists on one)."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def unreachable_ancestor(path: Path) -> Path | None:
    """Return the first directory on the way to `path` that other users cannot enter."""
    if os.geteuid() != 0:
        return None
    for folder in reversed(path.resolve().parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            return folder
    return None
