"""Access to `/dev/userfaultfd`, by which QEMU saves a guest's memory while the guest runs on.

QEMU is unprivileged and the device is root's. One group of no user gets access, by an entry in
the device's access list that leaves its owner, mode and other entries alone, and every QEMU is
started with that group.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

GROUP = 199_999
DEVICE = Path("/dev/userfaultfd")
_ATTRIBUTE = "system.posix_acl_access"
_VERSION = 2
_NO_ID = 0xFFFFFFFF
_READ_WRITE = 6
# The kinds of entries, in the order in which the kernel wants them.
_OWNER, _OWNING_GROUP, _GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x08, 0x10, 0x20

_Entry = tuple[int, int, int]


def allow_background_saves(device: Path = DEVICE) -> str | None:
    """Let our group use the device; return the reason when background saves stay impossible."""
    try:
        entries = _entries(device)
        if (_GROUP, _READ_WRITE, GROUP) not in entries:
            os.setxattr(device, _ATTRIBUTE, encoded([*entries, (_GROUP, _READ_WRITE, GROUP)]))
    except OSError as error:
        return f"{device} cannot be opened to guests' processes: {error.strerror}"
    return None


def encoded(entries: Sequence[_Entry]) -> bytes:
    """Return an access list as the kernel takes it: sorted, and with a mask that allows its entries."""
    kept = [entry for entry in entries if entry[0] != _MASK]
    kept.append((_MASK, _READ_WRITE, _NO_ID))
    ordered = sorted(kept, key=lambda entry: (entry[0], entry[2]))
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in ordered)


def decoded(attribute: bytes) -> list[_Entry]:
    """Return the entries of an access list: kind, rights, id."""
    return [struct.unpack_from("<HHI", attribute, at) for at in range(4, len(attribute) - 7, 8)]


def _entries(device: Path) -> list[_Entry]:
    if _ATTRIBUTE in os.listxattr(device):
        return decoded(os.getxattr(device, _ATTRIBUTE))
    mode = device.stat().st_mode
    return [
        (_OWNER, mode >> 6 & 7, _NO_ID),
        (_OWNING_GROUP, mode >> 3 & 7, _NO_ID),
        (_OTHERS, mode & 7, _NO_ID),
    ]
