"""Memory that forks share: when it is made, how long it is kept, and that nobody can write to it."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.unit.qemu.builders import a_snapshot_manifest

from sandfleet.adapters.qemu import fork_memory
from sandfleet.adapters.qemu.fork_memory import (
    ALONE_MAX,
    MEMORIES_MAX,
    ForkMemories,
    ForkMemory,
    available_bytes,
)
from sandfleet.adapters.qemu.load import LoadOrder
from sandfleet.model.errors import HypervisorFailed
from sandfleet.wire.snapshot_manifest import MEMORY_FILE

SIZE = 1 << 20


class Maker:
    """Makes memories and counts them; fails while it is told to."""

    def __init__(self) -> None:
        self.made: list[ForkMemory] = []
        self.asked = 0
        self.failure: Exception | None = None
        self.failures_max = 1000

    async def __call__(self) -> ForkMemory:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failure is not None and self.asked <= self.failures_max:
            raise self.failure
        self.made.append(ForkMemory.new(SIZE))
        return self.made[-1]


@pytest.fixture(autouse=True)
def _roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_memory, "FREE_FACTOR_MIN", 0)


async def _take(
    memories: ForkMemories, make: Maker, count: int, *, digest: str = "d"
) -> list[ForkMemory | None]:
    found = (memories.found_or_made(digest, size_bytes=SIZE, make=make) for _ in range(count))
    return await asyncio.gather(*found)


async def test_few_load_alone_and_more_share_one() -> None:
    memories, make = ForkMemories(), Maker()
    with ExitStack() as loading:
        for _ in range(ALONE_MAX):
            loading.enter_context(memories.loading("d"))
        assert await _take(memories, make, ALONE_MAX) == [None] * ALONE_MAX
        loading.enter_context(memories.loading("d"))
        assert await _take(memories, make, 5) == make.made * 5
        assert make.asked == 1


async def test_it_is_kept_while_a_machine_maps_it_and_let_go_of_with_the_last() -> None:
    memories, make = ForkMemories(), Maker()
    with ExitStack() as loading:
        for _ in range(ALONE_MAX + 1):
            loading.enter_context(memories.loading("d"))
        (memory,) = await _take(memories, make, 1)
        assert memory is not None
        memory.users |= {"m-1", "m-2"}
    with memories.loading("d"):  # one alone has it too, since it is there
        assert await _take(memories, make, 1) == [memory]
    memories.forget("m-1")
    memories.forget("m-of-another")
    os.fstat(memory.pages_fd)
    memories.forget("m-2")
    for number in (memory.pages_fd, memory.devices_fd):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


async def test_what_no_machine_came_to_map_is_let_go_of_with_the_last_load() -> None:
    memories, make = ForkMemories(), Maker()
    with ExitStack() as loading:
        for _ in range(ALONE_MAX + 1):
            loading.enter_context(memories.loading("d"))
        await _take(memories, make, 1)
        memories.forget("m-1")
        os.fstat(make.made[0].pages_fd)  # a load is still under way
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(make.made[0].pages_fd)


async def test_one_that_cannot_be_made_is_not_tried_by_each_and_all_load_alone() -> None:
    memories, make = ForkMemories(), Maker()
    make.failure = HypervisorFailed("no")
    with ExitStack() as loading:
        for _ in range(ALONE_MAX + 1):
            loading.enter_context(memories.loading("d"))
        assert await _take(memories, make, 4) == [None] * 4
        assert make.asked == 2
    make.failure = None
    with ExitStack() as loading:
        for _ in range(ALONE_MAX + 1):
            loading.enter_context(memories.loading("d"))
        assert await _take(memories, make, 1) == make.made


async def test_one_whose_qemu_ended_is_made_again() -> None:
    memories, make = ForkMemories(), Maker()
    make.failure, make.failures_max = HypervisorFailed("QEMU ended"), 1
    with ExitStack() as loading:
        for _ in range(ALONE_MAX + 1):
            loading.enter_context(memories.loading("d"))
        assert await _take(memories, make, 3) == make.made * 3


async def test_there_are_few_and_none_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    memories, make = ForkMemories(), Maker()
    with ExitStack() as loading:
        for number in range(MEMORIES_MAX + 1):
            for _ in range(ALONE_MAX + 1):
                loading.enter_context(memories.loading(f"d-{number}"))
            taken = await _take(memories, make, 1, digest=f"d-{number}")
            assert (taken == [None]) == (number == MEMORIES_MAX)
    monkeypatch.setattr(fork_memory, "FREE_FACTOR_MIN", 1 << 40)
    with ExitStack() as loading:
        for _ in range(ALONE_MAX + 1):
            loading.enter_context(memories.loading("d"))
        assert await _take(memories, make, 1) == [None]


async def test_what_was_plugged_takes_memory_too() -> None:
    memories, make = ForkMemories(), Maker()
    with ExitStack() as loading:
        for digest in ("small", "large"):
            for _ in range(ALONE_MAX + 1):
                loading.enter_context(memories.loading(digest))
        much = available_bytes(Path("/proc/meminfo").read_text()) * 2
        assert await memories.found_or_made("large", size_bytes=SIZE, beside_bytes=much, make=make) is None
        assert await memories.found_or_made("small", size_bytes=SIZE, beside_bytes=0, make=make)


def test_what_was_plugged_is_at_most_what_was_saved_of_it(tmp_path: Path) -> None:
    file = tmp_path / MEMORY_FILE
    file.write_bytes(b"x" * 8192)
    os.truncate(file, 4 << 30)  # as sparse as QEMU writes it
    plain, plugged = (
        LoadOrder(tmp_path, a_snapshot_manifest(memory_mib=mib), "sb-1", 1).plugged_bytes_max
        for mib in (512, 4096)
    )
    assert plain == 0
    assert 8192 <= plugged <= 1 << 20


def test_what_is_sealed_nobody_writes_to_and_it_has_no_holes() -> None:
    memory = ForkMemory.new(SIZE)
    try:
        assert os.fstat(memory.pages_fd).st_blocks * 512 >= SIZE
        memory.let_write(os.geteuid())
        os.pwrite(memory.pages_fd, b"page", 4096)
        memory.seal()
        for number in (memory.pages_fd, memory.devices_fd):
            with pytest.raises(OSError, match="not permitted"):
                os.pwrite(number, b"x", 0)
            with pytest.raises(OSError, match="not permitted"):
                os.ftruncate(number, 1)
        with open(memory.pages, "rb") as anew:
            anew.seek(4096)
            assert anew.read(4) == b"page"
    finally:
        memory.close()


def test_available_memory_is_read_or_is_none() -> None:
    assert available_bytes("MemTotal: 9 kB\nMemAvailable:      12 kB\n") == 12 * 1024
    assert available_bytes("MemTotal: 9 kB\n") == 0
