"""Connections of the real agent to a port, by the real adapter: they last while sessions come and go."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.waiting import eventually

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.model.errors import NotFound, PortClosed
from sandfleet.ports.guest import ExecAttachment, ExecPlace, StdinPlace

if TYPE_CHECKING:
    from conftest import AgentProcess

Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LARGE_BYTES = 6 * 2**20


@asynccontextmanager
async def listening(served: Served) -> AsyncIterator[int]:
    server = await asyncio.start_server(served, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async with listening(echo) as port:
        yield port


async def connected(guest: VirtioGuest, port: int) -> str:
    connection_id = f"pc-{secrets.token_hex(8)}"
    await guest.connect_port(connection_id, port)
    return connection_id


async def heard(attached: ExecAttachment, count: int) -> bytes:
    """Read so much, acknowledging it."""
    seen = b""
    async with asyncio.timeout(60):
        async for piece in attached.pieces():
            seen += piece.data
            attached.acknowledge(piece.offset + len(piece.data))
            if len(seen) >= count:
                return seen
    return seen


def at(offset: int) -> ExecPlace:
    return ExecPlace(offset=offset)


async def said(guest: VirtioGuest, connection_id: str, data: bytes, *, at: int, end: bool = False) -> None:
    await guest.write_stdin(connection_id, data, end=end, place=StdinPlace("me", at))


async def test_what_is_said_while_nobody_is_attached_is_there_afterwards_once(
    guest: VirtioGuest, agent: AgentProcess, echo_port: int
) -> None:
    """As it is when the guest moves: one session ends in the middle, and another goes on by offset."""
    connection_id = await connected(guest, echo_port)
    await said(guest, connection_id, b"one", at=0)
    async with guest.attach(connection_id, at(0)) as attached:
        assert await heard(attached, 3) == b"one"
        await said(guest, connection_id, b"two", at=3)
        await guest.close()
    async with VirtioGuest(agent.socket) as later:
        await later.connect_port(connection_id, 1)  # it stands already: the id is what counts
        await said(later, connection_id, b"twothree", at=3)
        async with later.attach(connection_id, at(3)) as attached:
            assert await heard(attached, 8) == b"twothree"
        await said(later, connection_id, b"", at=11, end=True)
        assert not (await later.wait_exec(connection_id, timeout_s=60)).running


async def test_a_large_answer_is_whole_and_waits_for_its_reader(
    guest: VirtioGuest, agent: AgentProcess
) -> None:
    answer = secrets.token_bytes(LARGE_BYTES)

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with listening(send) as port:
        before = agent.memory_bytes()
        connection_id = await connected(guest, port)
        async with guest.attach(connection_id, at(0)) as attached:
            assert await heard(attached, LARGE_BYTES) == answer
        assert agent.memory_bytes() - before < 4 * 2**20
        status = await guest.wait_exec(connection_id, timeout_s=60)
        assert (status.running, status.output_bytes) == (False, LARGE_BYTES)


async def test_a_port_that_nobody_listens_on_is_refused_and_leaves_nothing(guest: VirtioGuest) -> None:
    async with listening(echo) as port:
        pass
    with pytest.raises(PortClosed, match=str(port)):
        await guest.connect_port("pc-1", port)
    with pytest.raises(NotFound):
        await guest.exec_status("pc-1")


async def test_the_end_of_either_side_ends_it(
    guest: VirtioGuest, agent: AgentProcess, echo_port: int
) -> None:
    await guest.ping()
    open_files = agent.open_files()
    killed, ended = await connected(guest, echo_port), await connected(guest, echo_port)
    await guest.kill_exec(killed)
    await said(guest, ended, b"last", at=0, end=True)
    for connection_id in (killed, ended):
        assert not (await guest.wait_exec(connection_id, timeout_s=60)).running

    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        await writer.drain()
        writer.close()

    async with listening(leave) as port:
        left = await connected(guest, port)
        async with guest.attach(left, at(0)) as attached:
            assert await heard(attached, 99) == b"bye"
    await eventually(lambda: agent.open_files() == open_files, what="the descriptors to be given back")


async def test_connections_are_no_commands(guest: VirtioGuest, echo_port: int) -> None:
    await connected(guest, echo_port)
    assert await guest.list_execs() == []
