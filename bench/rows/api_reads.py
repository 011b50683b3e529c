"""How many reads one core of a replica answers, against the web framework's hello world."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bench.bed import Bed
from bench.processor_time import running_seconds
from bench.reader import read_often
from bench.samples import Row, Samples, alternate

ROUNDS = 5
REQUESTS = 3200
CONNECTIONS = 16
"""Each asks for a sandbox of its own."""
UP_WITHIN_S = 20.0
SHARE_MIN = 0.5


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    product, floor = Samples(), Samples()
    product_ms, floor_ms = Samples(), Samples()
    sandboxes = [await bed.create() for _ in range(CONNECTIONS)]
    urls = [f"{bed.url}/api/sandboxes/{one}" for one in sandboxes]
    (replica,) = [one for one in _services(bed) if one["kind"] == "server"]
    replica_pid = int(replica["process"]["pid"])
    headers = {"x-api-key": bed.api_key}
    async with _hello() as (hello, url):

        async def replica_reads() -> None:
            product_ms.values += await _counted(replica_pid, product, urls, headers=headers)

        async def hello_reads() -> None:
            floor_ms.values += await _counted(hello.pid, floor, [url] * CONNECTIONS)

        await bed.wait_pool_filled()
        await alternate(ROUNDS, (replica_reads, hello_reads), warm_up=1)
    for sandbox in sandboxes:
        await bed.delete(sandbox)
    for samples in (product, floor):
        del samples.values[:-ROUNDS]
    return [
        Row(
            what="reads of a sandbox, one core of one replica",
            unit="/s",
            product=product,
            floor=floor,
            floor_is="the web framework's hello world behind the same HTTP server",
            target=">= 50 % of floor",
            meets=product.median >= SHARE_MIN * floor.median,
            note=f"Requests for each second of processor time that the process used, {CONNECTIONS} "
            "connections, each with a sandbox of its own; the replica also checks a key and asks PostgreSQL, "
            f"whose time is not in it. Answers took {product_ms.median:.1f} / {product_ms.p99:.1f} ms, "
            f"the floor's {floor_ms.median:.1f} / {floor_ms.p99:.1f} ms.",
        )
    ]


async def _counted(
    pid: int, samples: Samples, urls: Sequence[str], *, headers: dict[str, str] | None = None
) -> list[float]:
    before = running_seconds(pid)
    took = await read_often(urls, count=REQUESTS, headers=headers)
    samples.values.append(len(took) / (running_seconds(pid) - before))
    return [seconds * 1000 for seconds in took]


@asynccontextmanager
async def _hello() -> AsyncIterator[tuple[Process, str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.hello", str(port))
    try:
        await _until_up(port)
        yield process, f"http://127.0.0.1:{port}/hello"
    finally:
        process.kill()
        await process.wait()


async def _until_up(port: int) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def _services(bed: Bed) -> list[dict[str, Any]]:
    state = json.loads((bed.data_dir / "state.json").read_text())
    return list(state["services"])
