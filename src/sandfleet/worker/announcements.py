"""Asks the cloud now and then whether it will take this host away, and remembers its last word.

A cloud that does not answer has said nothing: what it said before stands. It is asked less often then.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from sandfleet.model.errors import Unavailable
from sandfleet.ports.announcements import Announcement, AnnouncementSource
from sandfleet.ports.clock import Clock
from sandfleet.worker.notice import USUAL, Notice

INTERVAL_S_MAX = 60.0
log = structlog.get_logger("sandfleet.worker")


class Announcements:
    """The last word of one source."""

    def __init__(self, source: AnnouncementSource, *, clock: Clock, interval_s: float) -> None:
        self._source = source
        self._clock = clock
        self._interval_s = interval_s
        self._said: Announcement | None = None
        self._ends_at: datetime | None = None

    async def run(self) -> None:
        """Ask for as long as the worker runs."""
        failures = 0
        while True:
            failures = 0 if await self.look() else failures + 1
            pause_s = self._interval_s * 2 ** min(failures, 8)
            await self._clock.sleep(min(pause_s, max(INTERVAL_S_MAX, self._interval_s)))

    async def look(self) -> bool:
        """Ask once; say whether there was an answer."""
        try:
            said = await self._source.announced()
        except Unavailable as error:
            log.info("announcements_unknown", reason=error.message)
            return False
        if said != self._said:
            log.warning("host_announcement", announced=None if said is None else said.because)
            self._said = said
            # Of one that says no time the time of its first word counts.
            self._ends_at = None if said is None else said.ends_at or self._clock.now() + USUAL
        return True

    def notice(self, *, now: datetime) -> Notice | None:
        """Return what stands."""
        if self._said is None or self._ends_at is None:
            return None
        return Notice(max(0.0, (self._ends_at - now).total_seconds()), self._said.because)
