"""Keys by which an ssh server in this guest is known: never those of the template.

Fact: without acceleration an RSA key takes seconds of a guest's only CPU, and every clone would pay
them; an Ed25519 key takes a fraction of one, and every ssh client of today knows it.
"""

from __future__ import annotations

import glob
import os

KEYGEN = "/usr/bin/ssh-keygen"
SERVER = "/usr/sbin/sshd"
NICE = "/usr/bin/nice"
DIRECTORY = "/etc/ssh"
KEY = f"{DIRECTORY}/ssh_host_ed25519_key"
_server: list[bool] = []
"""Whether one was there when it was looked for."""


def remove_host_keys() -> None:
    """Remove what another guest may have."""
    for path in glob.glob(f"{DIRECTORY}/ssh_host_*"):
        os.unlink(path)


def keygen_command(*, is_unchanged: bool) -> list[str] | None:
    """Return the program that makes the key; None where no server is installed.

    What was found once holds in a guest whose files nobody has changed.
    """
    if not is_unchanged or not _server:
        _server[:] = [os.path.exists(SERVER)]
    if not _server[0]:
        return None
    return [NICE, "-n", "19", KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", KEY]
