"""The key of one move, as QEMU is given it: by a file of its user's alone, in a directory handed over open.

So the key is in no argument and no message that QEMU logs, and QEMU needs no right to any path.
The receiving side reads the file when a connection comes in, the sending side at once.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from sandfleet.adapters.qemu.qmp import Qmp, QmpRefused
from sandfleet.model.errors import HypervisorFailed

CREDENTIALS = "move-tls"
RECEIVING, SENDING = "server", "client"
KEY_BYTES = 32
PRIORITY = "NORMAL:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
"""By itself GnuTLS takes ChaCha20 with such a key. Where the processor has AES, that is most of the cost
of a copy, and a guest that stands still for its copy waits for it."""
_KEYS_DIRECTORY = "move-keys"
_KEY_FILE = "keys.psk"
_USER = "sandfleet"


def new_key() -> str:
    """Return a key that no other move has."""
    return secrets.token_hex(KEY_BYTES)


async def add_credentials(qmp: Qmp, directory: Path, *, uid: int, key: str, endpoint: str) -> None:
    """Have QEMU know the key, for all connections of this move."""
    keys = directory / _KEYS_DIRECTORY
    _write(keys, uid, key)
    fd = os.open(keys, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = await qmp.give_directory(fd, opaque=CREDENTIALS)
    finally:
        os.close(fd)
    credentials = {
        "qom-type": "tls-creds-psk",
        "id": CREDENTIALS,
        "dir": path,
        "endpoint": endpoint,
        "priority": PRIORITY,
    }
    await qmp.execute(
        "object-add", {**credentials, "username": _USER} if endpoint == SENDING else credentials
    )
    if endpoint == SENDING:
        shutil.rmtree(keys)


async def remove_credentials(qmp: Qmp, directory: Path) -> None:
    """Forget the key. Idempotent."""
    shutil.rmtree(directory / _KEYS_DIRECTORY, ignore_errors=True)
    with suppress(QmpRefused):  # there is none
        await qmp.execute("object-del", {"id": CREDENTIALS})
    await qmp.take_back_named(CREDENTIALS)


def known_key(directory: Path) -> str:
    """Return the key that was given to a machine that is still expected here."""
    try:
        return (directory / _KEYS_DIRECTORY / _KEY_FILE).read_text().strip().partition(":")[2]
    except OSError as error:
        raise HypervisorFailed("the key of this move is gone: it is no longer expected") from error


def _write(keys: Path, uid: int, key: str) -> None:
    shutil.rmtree(keys, ignore_errors=True)
    keys.mkdir(mode=0o700)
    fd = os.open(keys / _KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(f"{_USER}:{key}\n")
        os.fchown(fd, uid, uid)
    os.chown(keys, uid, uid)
