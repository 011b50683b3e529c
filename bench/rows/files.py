"""A file of 64 MiB in and out, against the same file over the bare agent channel."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from bench.bed import Bed
from bench.samples import Row, Samples, alternate

MIB = 1024 * 1024
SIZE_MIB = 64
ROUNDS = 4
PATH = "/var/tmp/bench.bin"


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    content = os.urandom(SIZE_MIB * MIB)
    up, up_floor, down, down_floor = Samples(), Samples(), Samples(), Samples()
    sandbox = await bed.create()
    bare = await bed.bare.clone()
    url = f"/api/sandboxes/{sandbox}/files"

    async def through_the_fleet() -> None:
        with up.timed_ms():
            (await bed.http.put(url, params={"path": PATH}, content=_pieces(content))).raise_for_status()
        with down.timed_ms():
            answer = await bed.http.get(url, params={"path": PATH})
        if answer.content != content:
            raise RuntimeError("the file came back changed")

    async def directly() -> None:
        with up_floor.timed_ms():
            await bare.guest.write_file(PATH, _pieces(content))
        with down_floor.timed_ms():
            received = [piece async for piece in bare.guest.read_file(PATH)]
        if b"".join(received) != content:
            raise RuntimeError("the file came back changed")

    try:
        await bed.wait_pool_filled()
        await alternate(ROUNDS, (through_the_fleet, directly), warm_up=1)
    finally:
        await bare.destroy()
        await bed.delete(sandbox)
    return [_row("upload 64 MiB", up, up_floor), _row("download 64 MiB", down, down_floor)]


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for offset in range(0, len(content), 256 * 1024):
        yield content[offset : offset + 256 * 1024]


def _row(what: str, product: Samples, floor: Samples) -> Row:
    speed, floor_speed = _speeds(product), _speeds(floor)
    return Row(
        what=what,
        unit="MiB/s",
        product=speed,
        floor=floor_speed,
        floor_is="the same bytes over the agent channel of a bare clone",
        target=">= 70 % of floor",
        meets=speed.median >= 0.7 * floor_speed.median,
    )


def _speeds(samples: Samples) -> Samples:
    return Samples([SIZE_MIB * 1000 / ms for ms in samples.values[-ROUNDS:]])
