"""Whether the host is about to be taken away: a file says so that a cloud's own agent or an operator writes.

The file's presence is the notice. It may be empty, or say as JSON when and why:
`{"ends_at": "2026-01-01T12:00:00Z", "reason": "spot interruption"}`. What cannot be read is a notice as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

USUAL = timedelta(minutes=2)
"""So long after the file was written the host ends, if it does not say."""
BYTES_MAX = 4096
UNSAID = "its host is about to be taken away"


@dataclass(frozen=True, slots=True)
class Notice:
    """When the host ends, and why."""

    ends_in_s: float
    because: str


class _Written(msgspec.Struct, frozen=True):
    ends_at: datetime | None = None
    reason: str = UNSAID


def read_notice(path: Path | None, *, now: datetime) -> Notice | None:
    """Return what the file says, None if there is none."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX)
        written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None
    except OSError:
        return Notice(USUAL.total_seconds(), UNSAID)
    try:
        said = msgspec.json.decode(raw, type=_Written)
    except msgspec.DecodeError:
        said = _Written()
    ends_at = said.ends_at or written_at + USUAL
    if ends_at.tzinfo is None:
        ends_at = ends_at.replace(tzinfo=UTC)
    return Notice(max(0.0, (ends_at - now).total_seconds()), said.reason)
