"""For how long a moved sandbox stands still, against a bare QEMU that sends its guest to another."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench import bare_moves
from bench.bed import Bed, run_command
from bench.guest_writes import none_is_lost, writing
from bench.left_floor import end_bed
from bench.samples import Row, Samples, alternate
from sandfleet.testing.disposable_fleets import disposable_directory
from sandfleet_sdk import AsyncClient

ROUNDS = 6
TARGET = "p50 < 100 ms, p99 < 300 ms"
_MEDIAN_MS_MAX, _P99_MS_MAX = 100, 300
_LEAST_MB, _USUAL_MB = 512, 1024
_FLEET_MIB = 8192
_CLEARED_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A fleet of two workers on this machine."""

    client: AsyncClient

    async def promised_mb(self) -> int:
        """Return the memory that both workers have promised."""
        return sum(int(worker.raw["committed_memory_mb"]) for worker in await self.client.fleet.workers())

    async def cleared(self, promised_mb: int) -> None:
        """Return when no more than that is promised: the place that was left is given back."""
        deadline = time.monotonic() + _CLEARED_WITHIN_S
        while await self.promised_mb() > promised_mb:
            if time.monotonic() > deadline:
                raise RuntimeError("the place of a sandbox that moved or ended is not given back")
            await asyncio.sleep(0.05)

    async def execute(self, sandbox: str, command: str, *args: str) -> None:
        """Run a command to its end and insist that it succeeds."""
        result = await self.client.commands.run(sandbox, command, args=list(args))
        if result.exit_code != 0:
            raise RuntimeError(f"{command} ended with {result.exit_code}: {result.stderr[-300:]}")


@asynccontextmanager
async def _pair() -> AsyncIterator[Pair]:
    with disposable_directory("sandfleet-bench", end=end_bed) as data_dir:
        at = ("--data-dir", str(data_dir))
        run_command("up", *at, "--workers", "2", "--memory", str(_FLEET_MIB))
        status = json.loads(run_command("status", "--json", *at))
        async with AsyncClient(status["url"], status["apiKey"]) as client:
            yield Pair(client)


async def measure(bed: Bed) -> list[Row]:
    """Measure."""
    async with _pair() as pair:
        return [
            await _row(bed, pair, memory_mb=_LEAST_MB, writes=False),
            await _row(bed, pair, memory_mb=_LEAST_MB, writes=True),
            await _row(bed, pair, memory_mb=_USUAL_MB, writes=False),
        ]


async def _row(bed: Bed, pair: Pair, *, memory_mb: int, writes: bool) -> Row:
    still, whole, floor, sealed = Samples(), Samples(), Samples(), Samples()
    # Under emulation QEMU misses writes to memory beyond the base: the guest stands for all of its copy.
    is_still = memory_mb > _LEAST_MB and (await bed.bare.accelerator()).startswith("tcg")
    clones = await bed.bare.of_size(memory_mb)
    before_mb = await pair.promised_mb()
    sandbox = (await pair.client.sandboxes.create(memory_mib=memory_mb)).id
    bare = await clones.clone()
    promised_mb = await pair.promised_mb()

    async def through_the_fleet() -> None:
        moved = await pair.client.sandboxes.migrate(sandbox)
        still.values.append(moved.downtime_ms)
        whole.values.append(moved.elapsed_ms)
        await pair.cleared(promised_mb)

    async def directly() -> None:
        nonlocal bare
        bare = await bare_moves.move(clones, bare, is_still=is_still, is_sealed=False, stood_still=floor)

    async def sealed_directly() -> None:
        nonlocal bare
        bare = await bare_moves.move(clones, bare, is_still=is_still, is_sealed=True, stood_still=sealed)

    if writes:
        await pair.execute(sandbox, *writing())
        await bare.execute(*writing())
    await alternate(ROUNDS, (through_the_fleet, directly, sealed_directly), warm_up=1)
    if writes:
        await pair.execute(sandbox, *none_is_lost())
        await bare.execute(*none_is_lost())
    await bare.destroy()
    await pair.client.sandboxes.kill(sandbox)
    await pair.cleared(before_mb)
    for samples in (still, whole, floor, sealed):
        del samples.values[:-ROUNDS]
    does = "writes memory and disk" if writes else "is idle"
    return Row(
        what=f"move of a sandbox of {memory_mb} MiB that {does}, standing still",
        unit="ms",
        product=still,
        floor=floor,
        floor_is=_floor_is(is_still=is_still),
        target=TARGET,
        meets=still.median < _MEDIAN_MS_MAX and still.p99 < _P99_MS_MAX,
        note=_note(whole, sealed, writes=writes),
    )


def _floor_is(*, is_still: bool) -> str:
    when = "at once, as emulation wants it for plugged memory" if is_still else "while the guest runs"
    between = "from the guest's stop to its agent's hello at the other"
    return f"two bare QEMUs, disks mirrored, memory copied {when}, nothing encrypted: {between}"


def _note(whole: Samples, sealed: Samples, *, writes: bool) -> str:
    said = (
        f"Encrypted as the product is, and by one connection, the bare ones take {sealed.median:.0f} / "
        f"{sealed.p99:.0f} ms. The product: from when nobody reaches it until its row says that it runs "
        f"there; a move took {whole.median:.0f} ms in all."
    )
    return f"{said} Every block that was written is on both disks." if writes else said
