"""Where somebody else says which version of the workers is wanted (adapters: `adapters/machines/`)."""

from __future__ import annotations

from typing import Protocol


class VersionSource(Protocol):
    """One place."""

    async def read(self) -> str | None:
        """Return the version that is named there now; None when none is. PoolUnreachable."""
        ...
