"""How a replica goes: it says so first, then stops listening, then lets its requests end."""

from __future__ import annotations

import asyncio

from sandfleet.model.errors import Unavailable

RETRY_AFTER_S = 1


class Drain:
    """`notice`: readiness is off. `leave`: streams that begin again elsewhere end. `hurry`: waiting ends."""

    def __init__(self) -> None:
        self._notice = asyncio.Event()
        self._leave = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def is_draining(self) -> bool:
        """Whether this replica is about to go."""
        return self._notice.is_set()

    @property
    def is_hurried(self) -> bool:
        """Whether requests that wait must give up."""
        return self._hurry.is_set()

    def give_notice(self) -> None:
        """Switch readiness off."""
        self._notice.set()

    def leave(self) -> None:
        """Nothing new comes: end what a client would hold open for ever and begins again by itself."""
        self._notice.set()
        self._leave.set()

    async def leaving(self) -> None:
        """Return when endless streams must end."""
        await self._leave.wait()

    def hurry(self) -> None:
        """Ask everything that waits to answer."""
        self.leave()
        self._hurry.set()

    async def noticed(self) -> None:
        """Return when this replica is about to go."""
        await self._notice.wait()

    async def hurried(self) -> None:
        """Return when waiting must end."""
        await self._hurry.wait()


def shutting_down() -> Unavailable:
    """Return the error of a request that this replica cannot wait for any longer."""
    return Unavailable("this replica is shutting down", retry_after_s=RETRY_AFTER_S, code="shutting_down")
