"""What happened in a run, in one line each: the digest of these lines is the run's identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


class Trace:
    """Lines of (time, who, what), kept as they came."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._lines: list[tuple[float, str, str]] = []

    def add(self, who: str, what: str) -> None:
        """Note it, at the virtual time that it is."""
        self._lines.append((self._time(), who, what))

    def lines(self, *, last: int | None = None) -> list[str]:
        """Return the lines for people, all or the last so many."""
        chosen = self._lines if last is None else self._lines[-last:]
        return [f"{at:10.3f}  {who:<10}  {what}" for at, who, what in chosen]

    def about(self, word: str) -> list[str]:
        """Return the lines in which `word` occurs."""
        return [line for line in self.lines() if word in line]

    def digest(self) -> str:
        """Return what two equal runs have in common and no two others."""
        text = "\n".join(f"{at!r} {who} {what}" for at, who, what in self._lines)
        return hashlib.sha256(text.encode()).hexdigest()
