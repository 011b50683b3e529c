"""A bound on memory that many share: what one takes, the others cannot."""

from __future__ import annotations


class Budget:
    """Bytes that may be held, at most also those of `parent`."""

    def __init__(self, bytes_max: int, *, parent: Budget | None = None) -> None:
        self.left = bytes_max
        self._parent = parent

    def take(self, wanted: int) -> int:
        """Return how many of `wanted` bytes may be held."""
        granted = min(wanted, self.left)
        if self._parent is not None:
            granted = self._parent.take(granted)
        self.left -= granted
        return granted

    def give_back(self, count: int) -> None:
        """Say that so many are no longer held."""
        self.left += count
        if self._parent is not None:
            self._parent.give_back(count)
