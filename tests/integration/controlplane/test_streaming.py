"""Files go through piece by piece: whole, kept when broken off, and never held in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import psutil
from tests.waiting import eventually

from .conftest import BOOTSTRAP_KEY, Fleet, OpenFleet

LARGE_BYTES = 48 * 1024 * 1024
PIECE = bytes(range(256)) * 1024


async def pieces(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // len(PIECE)):
        yield PIECE


async def test_bytes_arrive_as_they_were(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    for number, content in enumerate((b"", b"\x00\xff\r\n", PIECE)):
        path = f"/api/sandboxes/{sandbox}/files?path=/tmp/{number}"
        assert (await fleet.client.put(path, content=content)).status_code == 204
        answer = await fleet.client.get(path)
        assert answer.content == content
        assert answer.headers["Content-Length"] == str(len(content))
        assert answer.headers["Content-Type"] == "application/octet-stream"
        head = await fleet.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(content))


async def test_names_are_bytes(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/files?path=/tmp/a+b%20c%26d%2Fe%C3%A9%FF&other=1"
    assert (await fleet.client.put(path, content=b"x")).status_code == 204
    assert (await fleet.client.get(path)).content == b"x"
    listed = (await fleet.client.get(f"/api/sandboxes/{sandbox}/files/list?path=/tmp/a+b%20c%26d")).json()
    assert len(listed) == 1


async def test_large_files_pass_without_being_held(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/files?path=/tmp/large"
    digest = hashlib.sha256()
    async for piece in pieces(LARGE_BYTES):
        digest.update(piece)
    assert (await fleet.client.put(path, content=pieces(LARGE_BYTES))).status_code == 204
    seen = hashlib.sha256()
    async with fleet.client.stream("GET", path) as answer:
        assert answer.headers["Content-Length"] == str(LARGE_BYTES)
        async for piece in answer.aiter_raw():
            seen.update(piece)
    assert seen.digest() == digest.digest()


async def test_a_reader_that_takes_nothing_stops_the_flow(fleet: Fleet) -> None:
    """Back-pressure: what is not read is not fetched into this process."""
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/files?path=/tmp/large"
    await fleet.client.put(path, content=pieces(LARGE_BYTES))
    reader, writer = await raw_request(fleet, f"GET {path} HTTP/1.1")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    process = psutil.Process()
    before = process.memory_info().rss
    await asyncio.sleep(0.5)
    assert process.memory_info().rss - before < LARGE_BYTES // 2
    writer.close()


async def test_an_upload_that_breaks_off_leaves_the_old_content(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    path = f"/api/sandboxes/{sandbox}/files?path=/tmp/kept"
    await fleet.client.put(path, content=b"old")
    for framing, body in (
        ("Content-Length: 1000000", b"x" * 1000),
        ("Content-Length: 4000000", b"x" * 2_000_000),
        ("Transfer-Encoding: chunked", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
    ):
        _, writer = await raw_request(fleet, f"PUT {path} HTTP/1.1", framing)
        writer.write(body)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)
        assert (await fleet.client.get(path)).content == b"old"


async def test_uploads_above_the_limit_leave_the_old_content(open_fleet: OpenFleet) -> None:
    async with open_fleet(file_bytes_max=1000) as fleet:
        sandbox = await fleet.create()
        path = f"/api/sandboxes/{sandbox}/files?path=/tmp/kept"
        assert (await fleet.client.put(path, content=b"x" * 1000)).status_code == 204
        for content in (b"y" * 1001, pieces(len(PIECE))):
            answer = await fleet.client.put(path, content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert (await fleet.client.get(path)).content == b"x" * 1000


async def test_a_client_that_leaves_does_not_end_its_command(fleet: Fleet) -> None:
    sandbox = await fleet.create()
    body = b'{"cmd":"sleep 0.3; echo x"}'
    _, writer = await raw_request(
        fleet, f"POST /api/sandboxes/{sandbox}/exec/run HTTP/1.1", f"Content-Length: {len(body)}"
    )
    writer.write(body)
    await writer.drain()
    await fleet.hypervisor.faults.reached("start_exec")
    writer.close()
    machine = (await fleet.hypervisor.adopt())[0]
    (execution,) = await eventually(machine.guest.list_execs, what="the command")
    ended = await machine.guest.wait_exec(execution.exec_id, timeout_s=60)
    assert ended.exit_code == 0


async def raw_request(
    fleet: Fleet, line: str, *headers: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send the head of a request over a connection of its own."""
    host, port = fleet.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=4096)
    head = [line, f"Host: {host}", f"X-API-Key: {BOOTSTRAP_KEY}", *headers]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
    await writer.drain()
    return reader, writer
