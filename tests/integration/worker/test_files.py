"""Files over real HTTP, streamed both ways."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest
from tests.integration.worker.harness import RunningWorker, a_worker_with, fake_host, small_limits, until

from sandfleet.model.errors import GuestDiskFull

ID = "sb-one"
MIB = 1024 * 1024


async def _put(worker: RunningWorker, path: str, data: object) -> int:
    if isinstance(data, bytes):
        data = io.BytesIO(data)
    async with worker.files("PUT", ID, path, data=data) as answer:
        return answer.status


async def _get(worker: RunningWorker, path: str) -> tuple[int, bytes]:
    async with worker.files("GET", ID, path) as answer:
        return answer.status, await answer.read()


@pytest.mark.parametrize("size", [0, 1, 65536, 5 * MIB + 1])
async def test_what_is_put_is_got(size: int) -> None:
    content = bytes(number % 251 for number in range(256)) * (size // 256 + 1)
    async with a_worker_with() as worker:
        assert await _put(worker, "deep/er/file.bin", content[:size]) == 204
        async with worker.files("GET", ID, "/home/sandbox/deep/er/file.bin") as answer:
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Content-Length"] == str(size)
            assert await answer.read() == content[:size]
        async with worker.files("HEAD", ID, "deep/er/file.bin") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(size))


async def _in_pieces() -> AsyncIterator[bytes]:
    for _ in range(10):
        yield b"piece"


async def test_a_chunked_body_is_allowed() -> None:
    async with a_worker_with() as worker:
        assert await _put(worker, "/workspace/chunked", _in_pieces()) == 204
        assert await _get(worker, "/workspace/chunked") == (200, b"piece" * 10)


async def test_listing_making_and_deleting() -> None:
    async with a_worker_with() as worker:
        async with worker.files("POST", ID, "/workspace/b/c", part="/mkdir") as answer:
            assert answer.status == 204
        await _put(worker, "/workspace/a.txt", b"abc")
        async with worker.files("GET", ID, "/workspace", part="/list") as answer:
            entries = await answer.json()
        assert [(entry["name"], entry["path"], entry["isDir"], entry["size"]) for entry in entries] == [
            ("a.txt", "/workspace/a.txt", False, 3),
            ("b", "/workspace/b", True, 0),
        ]
        assert (entries[0]["mode"], entries[0]["mtime"]) == ("0644", "1970-01-01T00:00:00.000000Z")
        async with worker.files("GET", ID, None, part="/list") as answer:
            assert "home" in [entry["name"] for entry in await answer.json()]
        for _ in range(2):
            async with worker.files("DELETE", ID, "/workspace/b") as answer:
                assert answer.status == 204
        assert (await _get(worker, "/workspace/b/c"))[0] == 404


@pytest.mark.parametrize(
    ("method", "part", "path", "status", "code"),
    [
        ("GET", "", None, 400, "bad_request"),
        ("GET", "", "", 400, "bad_request"),
        ("GET", "", "a\0b", 400, "bad_request"),
        ("GET", "", "/workspace", 400, "is_directory"),
        ("GET", "", "/missing", 404, "not_found"),
        ("PUT", "", None, 400, "bad_request"),
        ("PUT", "", "/workspace", 400, "is_directory"),
        ("GET", "/list", "/missing", 404, "not_found"),
        ("GET", "/list", "/workspace/file", 400, "not_a_directory"),
        ("POST", "/mkdir", None, 400, "bad_request"),
        ("POST", "/mkdir", "/workspace/file/x", 400, "not_a_directory"),
        ("DELETE", "", None, 400, "bad_request"),
        ("DELETE", "", "/", 400, "bad_request"),
        ("DELETE", "", "//", 400, "bad_request"),
        ("DELETE", "", "/proc/", 400, "bad_request"),
        ("DELETE", "", "/x/../dev", 400, "bad_request"),
        ("DELETE", "", "../../sys", 400, "bad_request"),
    ],
)
async def test_errors_of_the_table(method: str, part: str, path: str | None, status: int, code: str) -> None:
    async with a_worker_with() as worker:
        await _put(worker, "/workspace/file", b"x")
        async with worker.files(method, ID, path, part=part) as answer:
            assert (answer.status, (await answer.json())["code"]) == (status, code)


async def test_an_interrupted_upload_leaves_the_old_content() -> None:
    async with a_worker_with() as worker:
        await _put(worker, "/workspace/file", b"old")
        port = int(worker.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"PUT /sandboxes/{ID}/files?path=/workspace/file HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            f"Authorization: Bearer {worker.key.token()}\r\nX-Sandfleet-Epoch: 1\r\n\r\nhalf"
        )
        writer.write(head.encode())
        resident = worker.host.residents.find(ID)
        assert resident is not None
        await until(lambda: resident.in_flight)
        writer.close()
        await until(lambda: not resident.in_flight)
        assert await _get(worker, "/workspace/file") == (200, b"old")


async def test_a_file_above_the_limit_is_too_large_announced_or_not() -> None:
    async with a_worker_with(limits=small_limits(file_bytes_max=20)) as worker:
        assert await _put(worker, "/workspace/file", b"x" * 20) == 204
        assert await _put(worker, "/workspace/file", b"y" * 21) == 413
        assert await _put(worker, "/workspace/file", _in_pieces()) == 413
        assert await _get(worker, "/workspace/file") == (200, b"x" * 20)


async def test_a_full_guest_disk_is_507() -> None:
    async with a_worker_with() as worker:
        fake_host(worker).faults.fail("write_file", GuestDiskFull("no space left in the sandbox"))
        assert await _put(worker, "/workspace/file", b"x") == 507


async def test_a_download_whose_client_leaves_frees_the_sandbox() -> None:
    async with a_worker_with() as worker:
        await _put(worker, "/workspace/big", b"x" * (48 * MIB))
        answer = await worker.files("GET", ID, "/workspace/big")
        resident = worker.host.residents.find(ID)
        assert resident is not None
        assert resident.in_flight == 1
        answer.close()
        await until(lambda: not resident.in_flight)


async def test_a_kill_cuts_a_download_short() -> None:
    async with a_worker_with() as worker:
        await _put(worker, "/workspace/big", b"x" * (48 * MIB))
        async with worker.files("GET", ID, "/workspace/big") as answer:
            assert (await worker.stop(ID))[0] == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
