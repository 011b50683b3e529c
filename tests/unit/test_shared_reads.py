"""Reads that share a statement: none is told what was old when it asked, none shares another's fate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

import pytest

from sandfleet.adapters.postgres.shared_reads import AT_ONCE, KEYS_MAX, SharedReads


class Table:
    """Values by key; each statement reads them when it is let go, and not before it was sent."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.statements: list[list[str]] = []
        self.failure: Exception | None = None
        self._let_go: list[asyncio.Event] = []

    async def read(self, keys: Collection[str]) -> Mapping[str, int]:
        seen = dict(self.values)
        self.statements.append(sorted(keys))
        gate = asyncio.Event()
        self._let_go.append(gate)
        await gate.wait()
        if self.failure is not None:
            raise self.failure
        return {key: seen[key] for key in keys if key in seen}

    async def answer_next(self) -> None:
        await settled(lambda: bool(self._let_go))
        self._let_go.pop(0).set()


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("did not come to pass")


async def rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def busy(table: Table, reads: SharedReads[str, int]) -> list[asyncio.Task[int | None]]:
    """Have as many statements under way as there may be."""
    tasks = []
    for number in range(AT_ONCE):
        tasks.append(asyncio.create_task(reads.get(f"busy-{number}")))
        await settled(lambda wanted=number + 1: len(table.statements) == wanted)
    return tasks


async def test_a_read_alone_is_sent_at_once() -> None:
    table = Table()
    table.values["a"] = 1
    reads = SharedReads(table.read, late_after_s=0)
    task = asyncio.create_task(reads.get("a"))
    await table.answer_next()
    assert await task == 1
    assert table.statements == [["a"]]


async def test_who_asks_meanwhile_shares_the_next_statement() -> None:
    table = Table()
    table.values |= {"a": 1, "b": 2}
    reads = SharedReads(table.read, late_after_s=0)
    first = await busy(table, reads)
    waiting = [asyncio.create_task(reads.get(key)) for key in ("a", "b", "none", "a")]
    await rest()
    assert len(table.statements) == AT_ONCE
    for _ in range(AT_ONCE + 1):
        await table.answer_next()
    assert await asyncio.gather(*waiting) == [1, 2, None, 1]
    assert table.statements[AT_ONCE:] == [["a", "b", "none"]]
    assert await asyncio.gather(*first) == [None] * AT_ONCE


async def test_while_a_statement_is_in_time_the_next_waits_for_it_with_all_who_ask() -> None:
    table = Table()
    table.values |= {"a": 1, "b": 2}
    reads = SharedReads(table.read, late_after_s=3600)
    first = asyncio.create_task(reads.get("first"))
    await settled(lambda: table.statements == [["first"]])
    waiting = [asyncio.create_task(reads.get(key)) for key in ("a", "b")]
    await rest()
    assert len(table.statements) == 1
    await table.answer_next()
    await table.answer_next()
    assert await asyncio.gather(first, *waiting) == [None, 1, 2]
    assert table.statements[1:] == [["a", "b"]]


async def test_turns_that_were_given_away_come_back_once() -> None:
    table = Table()
    reads = SharedReads(table.read, late_after_s=0)
    for _ in range(3):
        tasks = await busy(table, reads)
        table.statements.clear()
        waiting = [asyncio.create_task(reads.get(f"more-{number}")) for number in range(3)]
        await rest()
        assert table.statements == []
        for _ in range(AT_ONCE + 1):
            await table.answer_next()
        await asyncio.gather(*tasks, *waiting)
        table.statements.clear()


async def test_a_read_never_joins_a_statement_that_was_sent_before_it() -> None:
    table = Table()
    table.values["busy-0"] = 1
    reads = SharedReads(table.read, late_after_s=0)
    old = await busy(table, reads)
    table.values["busy-0"] = 2
    new = asyncio.create_task(reads.get("busy-0"))
    await rest()
    for _ in range(AT_ONCE + 1):
        await table.answer_next()
    assert await old[0] == 1
    assert await new == 2
    assert await old[1] is None


async def test_nothing_is_kept_for_who_comes_later() -> None:
    table = Table()
    reads = SharedReads(table.read, late_after_s=0)
    for value in (1, 2):
        table.values["a"] = value
        task = asyncio.create_task(reads.get("a"))
        await table.answer_next()
        assert await task == value


async def test_a_failure_is_that_of_all_its_readers_and_of_no_other() -> None:
    table = Table()
    reads = SharedReads(table.read, late_after_s=0)
    first = await busy(table, reads)
    waiting = [asyncio.create_task(reads.get(key)) for key in ("a", "b")]
    await rest()
    for _ in range(AT_ONCE):
        await table.answer_next()
    await asyncio.gather(*first)
    table.failure = ConnectionError("gone")
    await table.answer_next()
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in told] == [ConnectionError] * 2
    table.failure, table.values["a"] = None, 3
    later = asyncio.create_task(reads.get("a"))
    await table.answer_next()
    assert await later == 3


@pytest.mark.parametrize("is_sent", [False, True])
async def test_a_first_reader_that_is_cancelled_takes_nobody_with_it(is_sent: bool) -> None:
    table = Table()
    table.values["b"] = 2
    reads = SharedReads(table.read, late_after_s=0)
    first = await busy(table, reads)
    leader, follower = (asyncio.create_task(reads.get(key)) for key in ("a", "b"))
    await rest()
    if is_sent:
        for _ in range(AT_ONCE):
            await table.answer_next()
        await settled(lambda: table.statements[-1] == ["a", "b"])
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)
    assert leader.cancelled()
    while not follower.done():
        await rest()
        if table._let_go:
            await table.answer_next()
    assert await follower == 2
    assert table.statements[-1] == ["b"]
    await asyncio.gather(*first)


async def test_a_reader_that_leaves_costs_the_others_nothing() -> None:
    table = Table()
    table.values |= {"a": 1, "c": 3}
    reads = SharedReads(table.read, late_after_s=0)
    first = await busy(table, reads)
    tasks = [asyncio.create_task(reads.get(key)) for key in ("a", "b", "c")]
    await rest()
    tasks[1].cancel()
    for _ in range(AT_ONCE + 1):
        await table.answer_next()
    assert (await tasks[0], await tasks[2]) == (1, 3)
    assert (await asyncio.gather(tasks[1], return_exceptions=True))[0].__class__ is asyncio.CancelledError
    await asyncio.gather(*first)


async def test_a_statement_asks_for_no_more_than_its_bound() -> None:
    table = Table()
    reads = SharedReads(table.read, late_after_s=0)
    first = await busy(table, reads)
    asked = KEYS_MAX + 50
    tasks = [asyncio.create_task(reads.get(f"k{number}")) for number in range(asked)]
    await rest()
    for _ in range(AT_ONCE + 2):
        await table.answer_next()
    await asyncio.gather(*first, *tasks)
    assert [len(keys) for keys in table.statements[AT_ONCE:]] == [KEYS_MAX, asked - KEYS_MAX]
