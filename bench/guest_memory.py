"""Memory in use in a guest, the same on both sides: a process that holds random bytes."""

from __future__ import annotations

_HOLD = (
    "import os, time; "
    "held = [os.urandom(1 << 20) for _ in range({mib})]; "
    "open('/tmp/held', 'w').close(); "
    "time.sleep(86400)"
)
_BESIDE = 'python3 -c "{hold}" < /dev/null > /dev/null 2>&1 & until [ -e /tmp/held ]; do sleep 0.1; done'


def holding(mib: int) -> tuple[str, str, str]:
    """Return the command that has so much memory in use from its end on."""
    return ("sh", "-c", _BESIDE.format(hold=_HOLD.format(mib=mib)))
