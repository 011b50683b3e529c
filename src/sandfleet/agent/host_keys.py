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


def remove_host_keys() -> None:
    """Remove what another guest may have."""
    for path in glob.glob(f"{DIRECTORY}/ssh_host_*"):
        os.unlink(path)


def keygen_command() -> list[str] | None:
    """Return the program that makes the key; None where no server is installed."""
    if not os.path.exists(SERVER):
        return None
    return [NICE, "-n", "19", KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", KEY]
