"""What a cloud says, on a machine of its own, about that machine (adapters: `adapters/metadata/`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Announcement:
    """The machine will be taken away."""

    ends_at: datetime | None
    """None: it is said that it ends, and not when."""
    because: str


def earliest(found: Iterable[Announcement]) -> Announcement | None:
    """Return the one that comes first; what says no time may have begun."""
    return min(found, key=lambda one: one.ends_at or datetime.min.replace(tzinfo=UTC), default=None)


class AnnouncementSource(Protocol):
    """One cloud's endpoint."""

    async def announced(self) -> Announcement | None:
        """Return the earliest end of this machine that is announced, None when none is.

        Unavailable: it did not answer, or not in a form that is known. Nothing follows from that.
        """
        ...
