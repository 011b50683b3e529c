"""Work in threads, which cannot be cancelled: whoever is cancelled waits until the thread has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(working: asyncio.Future[T], *, take_back: Callable[[T], None] | None = None) -> T:
    """Return what the thread gives. When the caller is cancelled meanwhile, `take_back` gets it.

    Else the thread would go on beside those who clear away what it works on.
    """

    def undo(done: asyncio.Future[T]) -> None:
        if done.exception() is None and take_back is not None:
            take_back(done.result())

    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        working.add_done_callback(undo)
        await asyncio.wait([working])
        raise
