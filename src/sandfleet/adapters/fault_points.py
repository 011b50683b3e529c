"""Named points in real code at which a test may stop the work, make it fail, or kill the process.

They cost a look into an empty table; nothing but a test ever fills it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class FaultPoints:
    """What is done at each point, by name."""

    actions: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    async def at(self, point: str) -> None:
        """Pass a point."""
        action = self.actions.get(point)
        if action is not None:
            await action()
