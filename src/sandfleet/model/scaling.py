"""How the size of one sandbox may change: by whom, and between which bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scaling:
    """What its owner has decided. A fork begins with the defaults.

    A locked size is changed by nobody: not by its owner, its guest, or the fleet.
    """

    is_locked: bool = False
    is_automatic: bool = False
    """Whether the fleet follows the measured use."""
    memory_min_mib: int | None = None
    """Least that the fleet gives it by itself; None is the least that it offers."""
    memory_max_mib: int | None = None
    """Most that the fleet gives it by itself; None is the most that the organisation may have."""


UNSCALED = Scaling()
