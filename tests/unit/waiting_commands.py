"""What commands that wait for something are tested with: a client that is looked at, and its seconds."""

from __future__ import annotations

from types import ModuleType
from typing import Generic, TypeVar

import pytest

T = TypeVar("T")


class Answering(Generic[T]):
    """A client whose drain or roll-out stands like this, one look after the other."""

    def __init__(self, *looks: T) -> None:
        self.looks = list(looks)
        self.fleet = self

    def look(self, named: object) -> T:
        """Return the next of them, whatever it is called."""
        return self.looks.pop(0)

    drain = rollout = look


class Time:
    """Seconds that pass while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return how many have passed."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let them pass."""
        self.now += seconds


def time_of(command: ModuleType, patch: pytest.MonkeyPatch) -> Time:
    """Have such seconds pass for a command."""
    made = Time()
    patch.setattr(command, "time", made)
    return made
