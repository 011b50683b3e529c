"""Memory in use in a guest, the same on both sides: a process that holds random bytes.

Only the first 16 MiB are drawn, since an emulated guest draws slowly. The rest are the same bytes, turned by
another offset each: no page equals another, and what compresses sees no repetition within its window.
"""

from __future__ import annotations

_HOLD = (
    "import os, time; "
    "drawn = [os.urandom(1 << 20) for _ in range(16)]; "
    "held = [drawn[i % 16][i + 1:] + drawn[i % 16][:i + 1] for i in range({mib})]; "
    "open('/tmp/held', 'w').close(); "
    "time.sleep(86400)"
)
_BESIDE = (
    'python3 -c "{hold}" < /dev/null > /dev/null 2>&1 & '
    "until [ -e /tmp/held ]; do kill -0 $! || exit 1; sleep 0.1; done"
)


def holding(mib: int) -> tuple[str, str, str]:
    """Return the command that has so much memory in use from its end on."""
    return ("sh", "-c", _BESIDE.format(hold=_HOLD.format(mib=mib)))
