"""Keeps a pool from asking Azure sooner than Azure asked for.

# Facts
Azure counts reads, writes and deletions of a subscription apart, and says with `Retry-After` when the next
call of a kind has a chance. A call before that is refused and counts.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from azure.core.exceptions import AzureError, HttpResponseError

from sandfleet.ports.clock import Clock

WAIT_MAX = timedelta(minutes=10)
_TOO_MANY = 429


class Patience:
    """Until when each kind of call has to wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, datetime] = {}

    def wait_of(self, kind: str) -> timedelta | None:
        """Return how long it has to wait still, if it has to."""
        left = self._until.get(kind, self._clock.now()) - self._clock.now()
        return left if left > timedelta() else None

    def heed(self, kind: str, error: AzureError) -> None:
        """Remember what Azure said of the next call."""
        if not isinstance(error, HttpResponseError) or error.response is None:
            return
        said = str(error.response.headers.get("Retry-After", ""))
        if error.status_code == _TOO_MANY and said.isdigit():
            wait = min(timedelta(seconds=int(said[:6])), WAIT_MAX)
            self._until[kind] = self._clock.now() + wait
