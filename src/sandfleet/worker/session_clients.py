"""How many clients each session of a sandbox has, and which sessions wait for their end without any."""

from __future__ import annotations

from collections import Counter

from sandfleet.worker.background import OwnedTask


class SessionClients:
    """The clients of one sandbox's sessions, counted by this process."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._endings: dict[str, OwnedTask[None]] = {}

    def count(self, exec_id: str) -> int:
        """Return how many clients are attached."""
        return self._counts[exec_id]

    @property
    def total(self) -> int:
        """How many clients all sessions have."""
        return self._counts.total()

    def enter(self, exec_id: str) -> None:
        """Count one more; whatever would have ended the session for want of clients is called off."""
        self._counts[exec_id] += 1
        ending = self._endings.pop(exec_id, None)
        if ending is not None:
            ending.cancel()

    def leave(self, exec_id: str) -> int:
        """Count one less; return how many are left."""
        self._counts[exec_id] -= 1
        left = self._counts[exec_id]
        if not left:
            del self._counts[exec_id]
        return left

    def end_by(self, exec_id: str, ending: OwnedTask[None]) -> None:
        """Remember what will end the session unless a client comes."""
        before = self._endings.pop(exec_id, None)
        if before is not None:
            before.cancel()
        self._endings[exec_id] = ending

    def forget_ending(self, exec_id: str) -> None:
        """The session has been ended."""
        self._endings.pop(exec_id, None)
