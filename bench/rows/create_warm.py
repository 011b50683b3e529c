"""Create with a warm pool, against the HTTP and SQL round trips that it makes."""

from __future__ import annotations

import asyncpg
import httpx

from bench.bed import Bed
from bench.samples import Row, Samples, alternate

ROUNDS = 40
DURABLE_WRITES = 3
"""Admission, placement, commit."""


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    product, floor = Samples(), Samples()
    worker = httpx.AsyncClient(base_url=f"http://127.0.0.1:{_worker_port(bed)}", timeout=10)
    database = await asyncpg.connect(bed.setting("postgres_url").replace("+asyncpg", ""))
    await database.execute("CREATE TABLE IF NOT EXISTS bench_floor (id bigserial PRIMARY KEY, body text)")

    async def create() -> None:
        await bed.wait_pool_filled()
        with product.timed_ms():
            sandbox = await bed.create()
        await bed.delete(sandbox)

    async def round_trips() -> None:
        with floor.timed_ms():
            await bed.http.get("/healthz")
            await worker.get("/health")
            for _ in range(DURABLE_WRITES):
                await database.execute("INSERT INTO bench_floor (body) VALUES ($1)", "x" * 500)

    try:
        await alternate(ROUNDS, (create, round_trips), warm_up=3)
    finally:
        await database.execute("DROP TABLE bench_floor")
        await database.close()
        await worker.aclose()
    _drop_warm_up(product, floor)
    return [
        Row(
            what="create, warm pool",
            unit="ms",
            product=product,
            floor=floor,
            floor_is=f"an HTTP round trip to server and worker each, {DURABLE_WRITES} durable inserts",
            target="p50 < 50 ms, p99 < 200 ms",
            meets=product.median < 50 and product.p99 < 200,
        )
    ]


def _drop_warm_up(*samples: Samples) -> None:
    for one in samples:
        del one.values[:-ROUNDS]


def _worker_port(bed: Bed) -> int:
    (path,) = bed.data_dir.glob("settings/wk-*.toml")
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("listen_port")]
    return int(line.split("=")[1])
