"""Sessions and terminals of the real agent through the real adapter."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from tests.waiting import eventually

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.model.errors import BadRequest, NotFound, OffsetGone
from sandfleet.ports.guest import ExecOrder, ExecOutput, ExecPlace, ExecStatus, StdinPlace, TerminalSize

if TYPE_CHECKING:
    from conftest import AgentProcess

MIB = 2**20
ALL = ExecPlace(offset=0)


async def start(guest: VirtioGuest, script: str, **fields: object) -> str:
    order = ExecOrder(
        f"ex-{secrets.token_hex(8)}",
        ["/bin/sh", "-c", script],
        is_session=True,
        stdin=True,
        **fields,  # type: ignore[arg-type]
    )
    await guest.start_exec(order)
    return order.exec_id


async def until(pieces: AsyncIterator[ExecOutput], text: bytes) -> bytes:
    """Read until `text` has come."""
    seen = b""
    async with asyncio.timeout(60):
        async for piece in pieces:
            seen += piece.data
            if text in seen:
                return seen
    raise AssertionError(seen)


async def everything(guest: VirtioGuest, exec_id: str, place: ExecPlace = ALL) -> bytes:
    async with guest.attach(exec_id, place) as attached:
        return b"".join([piece.data async for piece in attached.pieces()])


async def ended(guest: VirtioGuest, exec_id: str) -> ExecStatus:
    return await guest.wait_exec(exec_id, timeout_s=60)


async def test_replay_ends_where_it_stood_at_the_attach_and_live_output_follows(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "printf before; read line; printf after-$line")
    async with guest.attach(exec_id, ALL) as attached:
        pieces = attached.pieces()
        assert await until(pieces, b"before") == b"before"
        async with guest.attach(exec_id, ALL) as second:
            assert (second.start, second.replay_to, second.status.running) == (0, 6, True)
            await guest.write_stdin(exec_id, b"x\n")
            assert b"".join([piece.data async for piece in second.pieces()]) == b"beforeafter-x"
        assert b"".join([piece.data async for piece in pieces]) == b"after-x"
    assert (await ended(guest, exec_id)).was_attached


async def test_scrollback_counts_from_the_end_and_the_first_client_gets_more(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "printf 0123456789")
    await ended(guest, exec_id)
    place = ExecPlace(scrollback_bytes=4, first_scrollback_bytes=100)
    assert not (await guest.exec_status(exec_id)).was_attached
    assert await everything(guest, exec_id, place) == b"0123456789"
    assert await everything(guest, exec_id, place) == b"6789"
    assert await everything(guest, exec_id, ExecPlace()) == b""


async def test_an_offset_outside_what_is_kept_names_the_range(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "head -c 20000000 /dev/zero")
    await ended(guest, exec_id)
    for offset in (0, 20_000_001):
        with pytest.raises(OffsetGone) as caught:
            async with guest.attach(exec_id, ExecPlace(offset=offset)):
                pass
        assert caught.value.details["newest"] == 20_000_000
        assert 0 < caught.value.details["oldest"] < 5_000_000
    assert not (await guest.exec_status(exec_id)).was_attached
    assert await everything(guest, exec_id, ExecPlace(offset=20_000_000)) == b""


async def test_what_is_not_acknowledged_is_kept_however_much_was_sent(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "head -c 40000000 /dev/zero; printf end")
    async with guest.attach(exec_id, ALL) as attached:
        pieces = attached.pieces()
        read = 0
        while read < 8 * MIB:
            read += len((await anext(pieces)).data)
        for _ in range(100):  # the process fills the log and is then held up
            before = (await guest.exec_status(exec_id)).output_bytes
            await guest.ping()
            if (await guest.exec_status(exec_id)).output_bytes == before >= 15 * MIB:
                break
        status = await guest.exec_status(exec_id)
        assert status.oldest_offset == 0
        assert status.output_bytes < 18 * MIB
        async for piece in pieces:
            read += len(piece.data)
            attached.acknowledge(piece.offset + len(piece.data))
    assert read == 40_000_003


async def test_without_clients_the_log_slides_and_nothing_blocks(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "head -c 60000000 /dev/zero")
    async with guest.attach(exec_id, ALL) as attached:
        await anext(attached.pieces())
    status = await ended(guest, exec_id)
    assert (status.running, status.output_bytes) == (False, 60_000_000)


async def test_an_attachment_goes_on_after_a_broken_connection(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "for i in $(seq 2000); do echo line $i; done; read x; echo done")
    expected = b"".join(b"line %d\n" % number for number in range(1, 2001)) + b"done\n"
    seen = b""
    async with guest.attach(exec_id, ALL) as attached:
        async for piece in attached.pieces():
            seen += piece.data
            if len(seen) > 100 and not seen.endswith(b"done\n"):
                guest._calls.disconnect()
                await guest.write_stdin(exec_id, b"\n", place=StdinPlace("w", 0))
    assert seen == expected


async def test_stdin_with_a_place_is_taken_once(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "cat")
    await guest.write_stdin(exec_id, b"hello ", place=StdinPlace("one", 0))
    await guest.write_stdin(exec_id, b"hello world", place=StdinPlace("one", 0))
    await guest.write_stdin(exec_id, b"hello world", place=StdinPlace("one", 0))
    await guest.write_stdin(exec_id, b"|other", place=StdinPlace("two", 0))
    with pytest.raises(BadRequest, match="is missing"):
        await guest.write_stdin(exec_id, b"x", place=StdinPlace("one", 12))
    await guest.write_stdin(exec_id, b"", end=True, place=StdinPlace("one", 11))
    assert await everything(guest, exec_id) == b"hello world|other"


async def test_a_terminal_is_one(guest: VirtioGuest) -> None:
    script = "tty; test -t 0 && test -t 2 && echo all; echo $TERM; stty size; read x; stty size; echo err >&2"
    exec_id = await start(guest, script, terminal=TerminalSize(cols=101, rows=33))
    assert (await guest.exec_status(exec_id)).has_terminal
    async with guest.attach(exec_id, ALL) as attached:
        pieces = attached.pieces()
        seen = await until(pieces, b"33 101")
        assert b"/dev/pts/" in seen
        assert b"all\r\nxterm-256color\r\n" in seen
        await guest.resize_exec(exec_id, TerminalSize(cols=90, rows=20))
        await guest.write_stdin(exec_id, b"\n")
        rest = b"".join([piece.data async for piece in pieces])
        assert b"20 90\r\nerr\r\n" in rest
    status = await ended(guest, exec_id)
    assert (status.running, status.exit_code) == (False, 0)
    await guest.resize_exec(exec_id, TerminalSize())  # a terminal that has ended takes any size


async def test_a_terminal_controls_its_session(guest: VirtioGuest) -> None:
    traps = "trap 'echo resized' WINCH; trap 'echo interrupted; exit 5' INT"
    script = f"{traps}; echo ready; while :; do sleep 0.05; done"
    exec_id = await start(guest, script, terminal=TerminalSize())
    async with guest.attach(exec_id, ALL) as attached:
        pieces = attached.pieces()
        await until(pieces, b"ready")
        await guest.resize_exec(exec_id, TerminalSize(cols=10, rows=10))
        await until(pieces, b"resized")
        await guest.write_stdin(exec_id, b"\x03")
        await until(pieces, b"interrupted")
        async for _ in pieces:
            pass  # the attachment ends with the session
    assert (await ended(guest, exec_id)).exit_code == 5


async def test_wrong_sizes_are_refused(guest: VirtioGuest) -> None:
    with pytest.raises(BadRequest):
        await start(guest, "true", terminal=TerminalSize(cols=0, rows=1))
    exec_id = await start(guest, "sleep 60", terminal=TerminalSize())
    with pytest.raises(BadRequest):
        await guest.resize_exec(exec_id, TerminalSize(cols=70_000, rows=1))
    with pytest.raises(NotFound):
        await guest.resize_exec("ex-unknown-1", TerminalSize())
    await guest.kill_exec(exec_id, signal=signal.SIGKILL)
    assert (await ended(guest, exec_id)).signal == 9


async def test_terminals_leave_no_descriptors_behind(guest: VirtioGuest, agent: AgentProcess) -> None:
    await guest.ping()
    before = agent.open_files()
    for _ in range(5):
        exec_id = await start(guest, "echo x", terminal=TerminalSize())
        assert await everything(guest, exec_id) == b"x\r\n"
        await ended(guest, exec_id)
    await eventually(lambda: agent.open_files() == before, what="every descriptor to be closed")


async def test_what_a_session_may_linger_is_remembered(guest: VirtioGuest) -> None:
    exec_id = await start(guest, "true", linger_s=7.5)
    assert (await guest.exec_status(exec_id)).linger_s == 7.5
