"""Keys by which an ssh server in this guest is known: never those of the template."""

from __future__ import annotations

import glob
import os

KEYGEN = "/usr/bin/ssh-keygen"
SERVER = "/usr/sbin/sshd"
DIRECTORY = "/etc/ssh"


def remove_host_keys() -> None:
    """Remove what another guest may have."""
    for path in glob.glob(f"{DIRECTORY}/ssh_host_*"):
        os.unlink(path)


def keygen_command() -> list[str] | None:
    """Return the program that makes all missing keys; None where no server is installed."""
    return [KEYGEN, "-A"] if os.path.exists(SERVER) else None
