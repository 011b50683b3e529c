"""Two servers behind HAProxy: how soon another leads, what a roll costs, how soon a worker is back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from bench.bed import Bed, run_command
from bench.left_floor import end_bed
from bench.samples import Row, Samples
from sandfleet.testing.disposable_fleets import disposable_directory
from sandfleet_sdk import AsyncClient, SandfleetError

KILLS = 5
HAND_OVERS = 5
WORKER_RESTARTS = 3
CLIENTS = 4
LEASE_MS = 3000.0
_MEMORY_MIB = 4096
_WITHIN_S = 90.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A fleet of two servers, and a look at its terms."""

    data_dir: Path
    url: str
    api_key: str
    database: asyncpg.Connection[asyncpg.Record]

    def services(self, kind: str) -> list[dict[str, Any]]:
        """Return what the supervisor records of the services of a kind that run."""
        state = json.loads((self.data_dir / "state.json").read_text())
        return [one for one in state["services"] if one["kind"] == kind and one["process"]]

    async def term(self) -> tuple[int, str]:
        """Return the newest term and its holder."""
        row = await self.database.fetchrow("SELECT number, holder FROM terms")
        assert row is not None
        return int(row["number"]), str(row["holder"])

    async def leader(self) -> int:
        """Return the process that leads."""
        _, holder = await self.term()
        number = int(holder.split("-")[1])
        name = "server" if number == 1 else f"server-{number}"
        (service,) = [one for one in self.services("server") if one["name"] == name]
        return int(service["process"]["pid"])

    async def settled(self) -> None:
        """Return when both servers and a worker are ready, and one of them has led for a moment."""
        begun = time.monotonic()
        async with AsyncClient(self.url, self.api_key) as client:
            while time.monotonic() - begun < _WITHIN_S:
                # The record of one that has just ended is a moment behind.
                running = [
                    one
                    for one in self.services("server")
                    if one["condition"] == "running" and psutil.pid_exists(one["process"]["pid"])
                ]
                try:
                    workers = await client.fleet.workers()
                except SandfleetError:
                    workers = []
                if len(running) == 2 and any(one.state == "ready" for one in workers):
                    await asyncio.sleep(1)
                    return
                await asyncio.sleep(0.1)
        raise RuntimeError("the servers did not come back")


@asynccontextmanager
async def _pair() -> AsyncIterator[Pair]:
    with disposable_directory("sandfleet-bench", end=end_bed) as data_dir:
        at = ("--data-dir", str(data_dir))
        run_command("up", *at, "--servers", "2", "--memory", str(_MEMORY_MIB))
        status = json.loads(run_command("status", "--json", *at))
        settings = (data_dir / "settings" / "server.toml").read_text()
        (url,) = [
            json.loads(line.split(" = ")[1]) for line in settings.splitlines() if "postgres_url" in line
        ]
        database = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            yield Pair(data_dir, status["url"], status["apiKey"], database)
        finally:
            await database.close()


async def measure(_: Bed) -> list[Row]:
    """Measure."""
    async with _pair() as pair:
        killed = await _elections(pair, signal.SIGKILL, rounds=KILLS)
        handed_over = await _elections(pair, signal.SIGTERM, rounds=HAND_OVERS)
        failed, calls = await _roll(pair)
        back, floor = await _worker_restarts(pair)
        update = await _durable_updates(pair)
    return [
        Row(
            what="leader killed -> another leads",
            unit="ms",
            product=killed,
            floor=Samples([LEASE_MS]),
            floor_is="the length of the lease",
            target="p99 < 5 s",
            meets=killed.p99 < 5000,
            note="A new leader's loops run at once.",
        ),
        Row(
            what="leader stopped -> another leads",
            unit="ms",
            product=handed_over,
            floor=update,
            floor_is="one durable update of a row",
            target="< 500 ms",
            meets=handed_over.p99 < 500,
        ),
        Row(
            what="roll of both servers under load, failed calls",
            unit="",
            product=Samples([float(failed)]),
            floor=Samples([0.0]),
            floor_is="none",
            target="0",
            meets=failed == 0,
            note=f"{calls} commands by {CLIENTS} clients that repeat.",
        ),
        Row(
            what="worker killed -> its sandbox runs a command",
            unit="ms",
            product=back,
            floor=floor,
            floor_is="starting Python with the worker's modules",
            target="< 2 s",
            meets=back.p99 < 2000,
            note="The supervisor starts it again at once.",
        ),
    ]


async def _elections(pair: Pair, how: signal.Signals, *, rounds: int) -> Samples:
    samples = Samples()
    for _ in range(rounds):
        await pair.settled()
        before, _ = await pair.term()
        leader = await pair.leader()
        with samples.timed_ms():
            os.kill(leader, how)
            while (await pair.term())[0] == before:  # noqa: ASYNC110 -- looked at from outside
                await asyncio.sleep(0.005)
        # One that still drains counts as running, and would not take over from the next.
        await _gone(leader)
    return samples


async def _gone(pid: int) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while psutil.pid_exists(pid):
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {pid} does not end")
        await asyncio.sleep(0.02)


async def _roll(pair: Pair) -> tuple[int, int]:
    """Stop both servers, one after the other, while clients run commands; return failures and calls."""
    await pair.settled()
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        users = [tasks.create_task(_use(pair, ended)) for _ in range(CLIENTS)]
        for name in ("server", "server-2"):
            (service,) = [one for one in pair.services("server") if one["name"] == name]
            os.kill(service["process"]["pid"], signal.SIGTERM)
            await _gone(service["process"]["pid"])
            await pair.settled()
        ended.set()
    results = [user.result() for user in users]
    return sum(failed for failed, _ in results), sum(calls for _, calls in results)


async def _use(pair: Pair, ended: asyncio.Event) -> tuple[int, int]:
    failed = calls = 0
    async with AsyncClient(pair.url, pair.api_key) as client:
        sandbox = await client.sandboxes.create(memory_mib=512)
        while not ended.is_set():
            calls += 1
            try:
                await client.commands.run(sandbox.id, "true")
            except SandfleetError:
                failed += 1
        await client.sandboxes.kill(sandbox.id)
    return failed, calls


async def _worker_restarts(pair: Pair) -> tuple[Samples, Samples]:
    back, floor = Samples(), Samples()
    await pair.settled()
    async with AsyncClient(pair.url, pair.api_key) as client:
        sandbox = await client.sandboxes.create(memory_mib=512)
        for _ in range(WORKER_RESTARTS):
            await pair.settled()
            (worker,) = pair.services("worker")
            with back.timed_ms():
                os.kill(worker["process"]["pid"], signal.SIGKILL)
                await client.commands.run(sandbox.id, "true")
            with floor.timed_ms():
                argv = [sys.executable, "-c", "import sandfleet.worker.main"]
                await asyncio.to_thread(subprocess.run, argv, check=True)
        await client.sandboxes.kill(sandbox.id)
    return back, floor


async def _durable_updates(pair: Pair) -> Samples:
    samples = Samples()
    for _ in range(50):
        with samples.timed_ms():
            await pair.database.execute("UPDATE terms SET raised_at = raised_at")
    return samples
