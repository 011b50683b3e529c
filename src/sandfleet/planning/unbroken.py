"""Reading a log of many writers forward without missing a row.

Fact: numbers are given before rows become visible, so a row may be seen before one with a lower number.
Rule: what follows a missing number is held back, until that row is there or no transaction that might
write it can be open any more; then the number is that of a change which was undone.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandfleet.model.transition import Transition

PATIENCE_S = 15.0
"""Longer than any statement or pause of a transaction may last."""


class Unbroken:
    """One reader's place in the log."""

    def __init__(self, after: int) -> None:
        self.after = after
        self._missing_since: float | None = None

    def take(self, rows: Sequence[Transition], *, now_s: float) -> Sequence[Transition]:
        """Return those of the next rows, oldest first, that may be given on now."""
        taken: list[Transition] = []
        for row in rows:
            number = row.id or 0
            if number > self.after + 1 and not self._is_given_up(now_s):
                break
            taken.append(row)
            self.after, self._missing_since = number, None
        return taken

    def _is_given_up(self, now_s: float) -> bool:
        if self._missing_since is None:
            self._missing_since = now_s
        return now_s - self._missing_since >= PATIENCE_S
