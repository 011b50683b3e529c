"""What the database says of saved states: how long their guests stood still, and whether they are safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from bench.bed import Bed

DURABLE_WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class SavedRows:
    """Looks into the fleet's own records, so that nothing is asked of the API while it is measured."""

    database: Any

    @classmethod
    @asynccontextmanager
    async def of(cls, bed: Bed) -> AsyncIterator[SavedRows]:
        """Connect to the fleet's database."""
        database = await asyncpg.connect(bed.setting("postgres_url").replace("+asyncpg", ""))
        try:
            yield cls(database)
        finally:
            await database.close()

    async def pause_ms(self, snapshot_id: str) -> float:
        """Return how long the guest stood still for a snapshot."""
        query = "SELECT pause_ms FROM snapshots WHERE id = $1"
        return float(await self.database.fetchval(query, snapshot_id))

    async def of_checkpoint(self, checkpoint_id: str) -> str:
        """Return the snapshot of a checkpoint."""
        query = "SELECT snapshot_id FROM checkpoints WHERE id::text = $1"
        return str(await self.database.fetchval(query, checkpoint_id))

    async def until_durable(self, snapshot_id: str) -> None:
        """Return when its upload is over: it must not run beside what is measured next."""
        deadline = time.monotonic() + DURABLE_WAIT_S
        query = "SELECT state FROM snapshots WHERE id = $1"
        while await self.database.fetchval(query, snapshot_id) != "durable":
            if time.monotonic() > deadline:
                raise RuntimeError(f"snapshot {snapshot_id} did not become durable")
            await asyncio.sleep(0.05)
