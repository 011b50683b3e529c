"""Waiting for what gives no sign of its own: often enough, and for as long as a busy machine may need."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")
WITHIN_S = 60.0
"""Far beyond what it takes anywhere: a bound for what never comes, not for what comes late."""


async def eventually(
    condition: Callable[[], T | Awaitable[T]], *, what: str, within_s: float = WITHIN_S, every_s: float = 0.02
) -> T:
    """Return what the condition gives, or its coroutine, as soon as that is true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return cast(T, found)
        assert loop.time() < deadline, f"waited {within_s:.0f} s in vain for {what}: {found!r}"
        await asyncio.sleep(every_s)
