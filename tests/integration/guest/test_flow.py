"""Broken connections lose nothing, slow readers hold up nobody, memory stays bounded."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.waiting import eventually

from sandfleet.adapters.guest.calls import GuestBounds
from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.model.errors import GuestUnresponsive
from sandfleet.ports.guest import ExecOrder

if TYPE_CHECKING:
    from tests.integration.guest.conftest import AgentProcess, Commands

MIB = 2**20


class BreakingWire:
    """A relay between adapter and agent that cuts connections after a number of bytes."""

    def __init__(self, front: Path, back: Path) -> None:
        self.front = front
        self._back = back
        self.cuts = 0
        self.cut_after: int | None = None

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._relay, self.front)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_unix_connection(self._back)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, back_writer))
                group.create_task(self._copy(back_reader, writer, counted=True))
        except* ConnectionError:
            self.cuts += 1
        finally:
            writer.transport.abort()
            back_writer.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = False
    ) -> None:
        passed = 0
        while data := await reader.read(65536):
            passed += len(data)
            if counted and self.cut_after is not None and passed > self.cut_after:
                writer.write(data[: len(data) // 2])
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@pytest.fixture
async def wire(agent: AgentProcess, tmp_path: Path) -> AsyncIterator[BreakingWire]:
    wire = BreakingWire(tmp_path / "wire.sock", agent.socket)
    server = await wire.serve()
    yield wire
    server.close()


async def test_a_hundred_cuts_in_mid_stream_lose_and_double_nothing(wire: BreakingWire) -> None:
    wire.cut_after = 400_000
    async with VirtioGuest(wire.front) as guest:
        await guest.start_exec(ExecOrder("ex-long", ["seq", "1", "6000000"]))
        digest = hashlib.sha256()
        count = 0
        async for piece in guest.read_output("ex-long"):
            assert piece.offset == count
            count += len(piece.data)
            digest.update(piece.data)
        status = await guest.wait_exec("ex-long")
    assert wire.cuts >= 100
    assert status.exit_code == 0
    assert count == status.output_bytes
    seq = await asyncio.create_subprocess_exec("seq", "1", "6000000", stdout=asyncio.subprocess.PIPE)
    assert digest.digest() == hashlib.sha256((await seq.communicate())[0]).digest()


async def test_a_download_goes_on_in_the_same_file(wire: BreakingWire, agent: AgentProcess) -> None:
    content = bytes(range(256)) * 20_000
    (agent.home / "data").write_bytes(content)
    wire.cut_after = 1_000_000
    async with VirtioGuest(wire.front) as guest:
        assert b"".join([chunk async for chunk in guest.read_file("data")]) == content
    assert wire.cuts >= 5


async def test_a_broken_upload_fails_and_leaves_the_old_file(wire: BreakingWire, agent: AgentProcess) -> None:
    (agent.home / "data").write_text("old")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        wire.cut_after = 0
        for _ in range(100):
            yield b"x" * 100_000

    async with VirtioGuest(wire.front) as guest:
        with pytest.raises(GuestUnresponsive):
            await guest.write_file("data", chunks())
        wire.cut_after = None
        await guest.ping()
        assert [entry.name for entry in await guest.list_directory(".")] == ["data"]
    assert (agent.home / "data").read_text() == "old"


async def test_a_slow_reader_blocks_its_process_and_nobody_else(
    commands: Commands, guest: VirtioGuest, agent: AgentProcess
) -> None:
    exec_id = await commands.start("sh", "-c", "head -c 40000000 /dev/zero; echo end >&2")
    output = guest.read_output(exec_id)
    first = await anext(output)
    started = time.monotonic()
    for _ in range(5):
        assert (await commands.shell("head -c 2000000 /dev/zero | wc -c")).stdout == b"2000000\n"
    assert time.monotonic() - started < 60
    status = await guest.exec_status(exec_id)
    assert status.running
    assert status.oldest_offset == 0
    assert status.output_bytes < 17 * MIB
    rest = [piece async for piece in output]
    assert len(first.data) + sum(len(piece.data) for piece in rest) == 40_000_004
    assert rest[-1].stream == 2
    assert agent.memory_bytes() < 120 * MIB


async def test_without_readers_the_process_never_blocks(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("head", "-c", "100000000", "/dev/zero")
    status = await guest.wait_exec(exec_id, timeout_s=100)
    assert (status.running, status.output_bytes) == (False, 100_000_000)


async def test_100_mb_pass_in_bounded_memory(
    commands: Commands, guest: VirtioGuest, agent: AgentProcess
) -> None:
    exec_id = await commands.start("head", "-c", "100000000", "/dev/zero")
    count = 0
    async for piece in guest.read_output(exec_id):
        count += len(piece.data)
    assert count == 100_000_000
    assert agent.memory_bytes() < 80 * MIB


async def test_output_of_all_execs_together_is_bounded(commands: Commands, agent: AgentProcess) -> None:
    await asyncio.gather(*(commands.run("head", "-c", "16000000", "/dev/zero") for _ in range(8)))
    assert agent.memory_bytes() < 140 * MIB


async def test_a_reader_that_leaves_early_frees_the_process(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("head", "-c", "60000000", "/dev/zero")
    output = guest.read_output(exec_id)
    await anext(output)
    await output.aclose()  # type: ignore[attr-defined]
    assert not (await guest.wait_exec(exec_id, timeout_s=100)).running


async def test_execs_survive_the_host(agent: AgentProcess) -> None:
    async with VirtioGuest(agent.socket) as first:
        await first.start_exec(ExecOrder("ex-go-on", ["sh", "-c", "echo one; sleep 0.3; echo two"]))
    async with VirtioGuest(agent.socket) as second:
        pieces = [piece.data async for piece in second.read_output("ex-go-on")]
    assert b"".join(pieces) == b"one\ntwo\n"


async def test_pings_pass_bulk(commands: Commands, guest: VirtioGuest) -> None:
    exec_id = await commands.start("head", "-c", "60000000", "/dev/zero")
    took_s: list[float] = []

    async def pings(done: asyncio.Event) -> None:
        while not done.is_set():
            started = time.monotonic()
            await guest.ping()
            took_s.append(time.monotonic() - started)

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(pings(done))
        await commands.collect(exec_id)
        done.set()
    assert len(took_s) > 5
    assert statistics.median(took_s) < 0.5


async def test_a_stopped_agent_is_unresponsive_in_time(agent: AgentProcess) -> None:
    async with VirtioGuest(agent.socket) as patient:
        await patient.start_exec(ExecOrder("ex-quiet", ["sleep", "600"]))
    bounds = GuestBounds(connect_s=0.3, reconnect_s=0.6, silence_s=0.3, answer_s=0.3)
    async with VirtioGuest(agent.socket, bounds=bounds) as guest:
        await eventually(lambda: answers(guest), what="one answer in time")
        agent.process.send_signal(signal.SIGSTOP)
        try:
            for call in (guest.ping(), guest.exec_status("ex-quiet"), anext(guest.read_output("ex-quiet"))):
                with pytest.raises(GuestUnresponsive):
                    async with asyncio.timeout(30):
                        await call
        finally:
            agent.process.send_signal(signal.SIGCONT)
    async with VirtioGuest(agent.socket) as patient:
        assert (await patient.exec_status("ex-quiet")).running


async def answers(guest: VirtioGuest) -> bool:
    try:
        await guest.ping()
    except GuestUnresponsive:
        return False
    return True


async def test_nobody_there_is_unresponsive(tmp_path: Path) -> None:
    bounds = GuestBounds(connect_s=0.2, reconnect_s=0.3)
    async with VirtioGuest(tmp_path / "nothing.sock", bounds=bounds) as guest:
        with pytest.raises(GuestUnresponsive):
            await guest.ping()


async def test_a_lying_guest_breaks_only_its_own_calls(tmp_path: Path) -> None:
    path = tmp_path / "liar.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        async def lie(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\xf5\x9dSF" * 100_000)
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(lie, sock=listener)
        bounds = GuestBounds(connect_s=0.3, reconnect_s=0.5)
        async with VirtioGuest(path, bounds=bounds) as guest:
            with pytest.raises(GuestUnresponsive):
                await guest.ping()
        server.close()


async def test_closing_leaves_no_task_and_fails_later_calls(agent: AgentProcess) -> None:
    before = asyncio.all_tasks()
    guest = VirtioGuest(agent.socket)
    await guest.ping()
    assert asyncio.all_tasks() == before
    await guest.close()
    with pytest.raises(GuestUnresponsive):
        await guest.ping()
