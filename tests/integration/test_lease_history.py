"""Contenders for one lease in a real Valkey: what each was told is one history, and must have an order."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from redis.asyncio import Redis

from sandfleet.adapters.clock import SystemClock
from sandfleet.adapters.redis.connection import RedisConnection
from sandfleet.adapters.redis.leases import RedisLeaseStore
from sandfleet.testing.histories.leader_models import LeaseModel, lease_steps
from sandfleet.testing.histories.linearizability import Verdict, check
from sandfleet.testing.histories.recorder import Recorder
from sandfleet.testing.histories.records import parse

TTL_S = 0.2
TURNS = 12
VERBS = ("acquire", "acquire", "extend", "extend", "release")


async def test_what_contenders_for_a_lease_were_told_has_an_order(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    async with asyncio.TaskGroup() as tasks:
        for name in ("a", "b", "c"):
            tasks.create_task(_contend(name, redis_url, path))
        tasks.create_task(_flush(redis_url, path))
    records = parse(path.read_text().splitlines())
    steps = [
        step
        for number, record in enumerate(records)
        for step in lease_steps(record, number=number, ttl_s=TTL_S)
    ]
    finding = check(steps, LeaseModel())
    assert finding.verdict is Verdict.LINEARIZABLE, [record.describe() for record in records]
    assert {step.name for step in steps} >= {"granted", "flushed", "expired"}


async def _contend(name: str, url: str, path: Path) -> None:
    dice = random.Random(name)
    connection = RedisConnection(url, SystemClock())
    leases = RedisLeaseStore(connection)
    try:
        with Recorder(path, name) as recorder:
            for _ in range(TURNS):
                verb = dice.choice(VERBS)
                was_there = await connection.is_healthy()
                call = recorder.invoke(verb, "lease")
                said = True
                if verb == "acquire":
                    said = await leases.acquire("leader", name, ttl_s=TTL_S)
                elif verb == "extend":
                    said = await leases.extend("leader", name, ttl_s=TTL_S)
                else:
                    await leases.release("leader", name)
                # "No" also stands for a store that did not answer: only one that did has said it.
                if (said and verb != "release") or (was_there and await connection.is_healthy()):
                    recorder.returned(call, "yes" if said else "no")
                else:
                    recorder.unknown(call, "redis is away")
                await asyncio.sleep(dice.uniform(0, 0.1))
    finally:
        await connection.close()


async def _flush(url: str, path: Path) -> None:
    with Recorder(path, "operator") as recorder:
        async with Redis.from_url(url) as client:
            await asyncio.sleep(0.3)
            call = recorder.invoke("flush", "lease")
            await client.flushall()
            recorder.returned(call, "yes")
