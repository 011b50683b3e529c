"""How many reads one core of a replica answers, against the web framework's hello world."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bench.bed import Bed
from bench.processor_time import process_seconds
from bench.reader import read_often
from bench.samples import Row, Samples, alternate

ROUNDS = 5
REQUESTS = 3200
CONNECTIONS = 16
UP_WITHIN_S = 20.0
SHARE_MIN = 0.5


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    product, floor = Samples(), Samples()
    sandbox = await bed.create()
    (replica,) = [one for one in _services(bed) if one["kind"] == "server"]
    replica_pid = int(replica["process"]["pid"])
    headers = {"x-api-key": bed.api_key}
    async with _hello() as (hello, url):

        async def replica_reads() -> None:
            sandbox_url = f"{bed.url}/api/sandboxes/{sandbox}"
            await _counted(replica_pid, product, lambda: _read(sandbox_url, headers=headers))

        async def hello_reads() -> None:
            await _counted(hello.pid, floor, lambda: _read(url))

        await bed.wait_pool_filled()
        await alternate(ROUNDS, (replica_reads, hello_reads), warm_up=1)
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
            "connections; the replica also checks a key and asks PostgreSQL, whose time is not in it.",
        )
    ]


async def _read(url: str, *, headers: dict[str, str] | None = None) -> None:
    await read_often(url, count=REQUESTS, connections=CONNECTIONS, headers=headers)


async def _counted(pid: int, samples: Samples, reads: Callable[[], Awaitable[None]]) -> None:
    before = process_seconds([pid])
    await reads()
    samples.values.append(REQUESTS / (process_seconds([pid]) - before))


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


def _services(bed: Bed) -> list[dict[str, dict[str, int]]]:
    state = json.loads((bed.data_dir / "state.json").read_text())
    return list(state["services"])
