"""The worker's background work ends with it, also what other work begins on its way out."""

from __future__ import annotations

import asyncio

from sandfleet.worker.background import Background


async def test_what_is_begun_while_all_ends_does_not_keep_it() -> None:
    never = asyncio.Event()

    async def waits() -> None:
        await never.wait()

    async def begins_more_at_its_end(background: Background) -> None:
        try:
            await never.wait()
        finally:
            background.start(waits(), name="more")

    async with asyncio.timeout(30):
        async with Background() as background:
            background.start(begins_more_at_its_end(background), name="first")
            await asyncio.sleep(0)
