"""Who an exec runs as."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from sandfleet.wire.agent_messages import Code, OperationFailed


@dataclass(frozen=True, slots=True)
class User:
    """One account with all its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


class Users:
    """Accounts by name; read again when the files behind them change."""

    FILES = ("/etc/passwd", "/etc/group")

    def __init__(self) -> None:
        self._stamp: tuple[int, ...] = ()
        self._known: dict[str, User] = {}

    def find(self, name: str) -> User:
        """Return the account."""
        stamp = tuple(os.stat(path).st_mtime_ns for path in self.FILES)
        if stamp != self._stamp:
            self._known.clear()
            self._stamp = stamp
        user = self._known.get(name)
        if user is None:
            user = self._known[name] = _look_up(name)
        return user


def _look_up(name: str) -> User:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError) as error:
        raise OperationFailed(Code.BAD_REQUEST, f"no user {name}") from error
    groups = tuple(os.getgrouplist(name, entry.pw_gid))
    return User(name, entry.pw_uid, entry.pw_gid, groups, home=entry.pw_dir, shell=entry.pw_shell)


def ids_of(users: Users, name: str, *, switches_user: bool) -> tuple[int, int] | None:
    """Return who owns what is made for the user; None when the agent leaves owners alone."""
    if not switches_user:
        return None
    user = users.find(name)
    return user.uid, user.gid
