"""How much of their memory guests use: for a while the same, then another amount; at rest always the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sandfleet.model.ids import SandboxId

USES_MIB = (60, 300, 700, 1500)
PERIOD_S = 12.0
KEPT_MIB = 100
"""What kernel and agent keep of each guest for themselves."""


@dataclass
class GuestUses:
    """The use of all guests. `time` is the world's; `is_calm` says whether the trouble is over."""

    seed: int
    time: Callable[[], float]
    is_calm: Callable[[], bool]
    _last: int | None = field(default=None, init=False)

    @property
    def period(self) -> int:
        """Which stretch of equal use this is. The last one begins when all is calm, and does not end."""
        if self._last is None and self.is_calm():
            self._last = self._now
        return self._now if self._last is None else self._last

    @property
    def _now(self) -> int:
        return int(self.time() // PERIOD_S)

    def used_mib(self, sandbox_id: SandboxId) -> int:
        """Return what the users of a guest need now."""
        return random.Random(f"{self.seed} use {sandbox_id} {self.period}").choice(USES_MIB)
