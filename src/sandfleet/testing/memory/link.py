"""The way from one process to a store in memory; a simulation puts its faults here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Link(Protocol):
    """Carries one piece of work to the store and its outcome back.

    The work is one transaction: it runs once, at one instant, and either raises before it has
    changed anything or changes everything. `repeatable` says that twice is as good as once.
    """

    async def call(self, work: Callable[[], T], *, repeatable: bool = False, name: str = "") -> T:
        """Return what `work` returns, or raise what it raises; `StoreUnavailable` when the link fails."""
        ...


class DirectLink:
    """A link that never fails and takes no time."""

    async def call(self, work: Callable[[], T], *, repeatable: bool = False, name: str = "") -> T:
        """Do the work at once."""
        return work()
