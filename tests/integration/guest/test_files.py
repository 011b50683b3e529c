"""Files of the real agent through the real adapter."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from tests.waiting import eventually

from sandfleet.adapters.guest.virtio_guest import VirtioGuest
from sandfleet.model.errors import BadRequest, GuestDiskFull, NotFound, SandfleetError

if TYPE_CHECKING:
    from tests.integration.guest.conftest import AgentProcess, Commands


async def chunked(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(guest: VirtioGuest, path: str) -> bytes:
    return b"".join([chunk async for chunk in guest.read_file(path)])


async def test_what_is_written_is_read(guest: VirtioGuest, agent: AgentProcess) -> None:
    content = bytes(range(256)) * 3000
    assert await guest.write_file("a/b/c.bin", chunked(content[:7], b"", content[7:])) == len(content)
    assert await read(guest, "a/b/c.bin") == content
    path = agent.home / "a/b/c.bin"
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    entry = await guest.stat(str(path))
    assert (entry.name, entry.path, entry.is_dir, entry.size, entry.mode) == (
        "c.bin",
        str(path),
        False,
        len(content),
        0o644,
    )


async def test_an_empty_file(guest: VirtioGuest) -> None:
    assert await guest.write_file("empty", chunked()) == 0
    assert await read(guest, "empty") == b""


async def test_an_existing_file_keeps_owner_and_mode(guest: VirtioGuest, agent: AgentProcess) -> None:
    path = agent.home / "tool"
    path.write_text("old")
    path.chmod(0o750)
    if os.getuid() == 0:
        os.chown(path, 1234, 1235)
    before = path.stat()
    await guest.write_file("tool", chunked(b"new"))
    after = path.stat()
    assert path.read_text() == "new"
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


async def test_a_symlink_is_followed_and_stays(guest: VirtioGuest, agent: AgentProcess) -> None:
    (agent.home / "real").write_text("old")
    (agent.home / "link").symlink_to("real")
    (agent.home / "dangling").symlink_to("made")
    await guest.write_file("link", chunked(b"new"))
    await guest.write_file("dangling", chunked(b"made through it"))
    assert (agent.home / "link").is_symlink()
    assert (agent.home / "real").read_text() == "new"
    assert (agent.home / "made").read_text() == "made through it"
    await guest.delete("link")
    assert (agent.home / "real").exists()


async def test_an_upload_given_up_leaves_the_old_file_and_nothing_else(
    guest: VirtioGuest, agent: AgentProcess
) -> None:
    (agent.home / "data").write_text("old")
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 60_000
        reached.set()
        await asyncio.Event().wait()

    upload = asyncio.ensure_future(guest.write_file("data", endless()))
    await reached.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    while len(os.listdir(agent.home)) > 1:
        await guest.ping()
    assert (agent.home / "data").read_text() == "old"


async def test_a_source_that_fails_leaves_the_old_file(guest: VirtioGuest, agent: AgentProcess) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError, match="went away"):
        await guest.write_file("data", failing())
    while os.listdir(agent.home):
        await guest.ping()


async def test_readers_of_a_replaced_file_see_one_version(guest: VirtioGuest, agent: AgentProcess) -> None:
    await guest.write_file("big", chunked(b"1" * 5_000_000))
    reading = guest.read_file("big")
    first = await anext(reading)
    await guest.write_file("big", chunked(b"2" * 10))
    rest = b"".join([chunk async for chunk in reading])
    assert set(first + rest) == {ord("1")}
    assert len(first + rest) == 5_000_000


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("no/such", "not_found"),
        (".", "is_directory"),
        ("file/below", "not_a_directory"),
        ("fifo", "bad_request"),
        ("loop", "bad_request"),
        ("x" * 300, "bad_request"),
    ],
)
async def test_what_cannot_be_read_says_why(
    guest: VirtioGuest, agent: AgentProcess, path: str, code: str
) -> None:
    (agent.home / "file").write_text("x")
    (agent.home / "loop").symlink_to("loop")
    os.mkfifo(agent.home / "fifo")
    with pytest.raises(SandfleetError) as caught:
        await anext(guest.read_file(path))
    assert caught.value.code == code


async def test_what_cannot_be_written_says_why(guest: VirtioGuest, agent: AgentProcess) -> None:
    (agent.home / "file").write_text("x")
    for path, code in ((".", "is_directory"), ("file/below", "not_a_directory"), ("new/", "is_directory")):
        with pytest.raises(BadRequest) as caught:
            await guest.write_file(path, chunked(b"y" * 300_000))
        assert caught.value.code == code
    with pytest.raises(BadRequest, match="NUL"):
        await guest.write_file("a\0b", chunked(b"y"))
    assert (agent.home / "file").read_text() == "x"


async def test_a_full_disk_is_its_own_error(
    guest: VirtioGuest, agent: AgentProcess, commands: Commands
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = agent.home / "small"
    small.mkdir()
    mounted = await commands.run("mount", "-t", "tmpfs", "-o", "size=1m", "none", str(small))
    if mounted.status.exit_code != 0:
        pytest.skip("this host lets us mount nothing")
    try:
        with pytest.raises(GuestDiskFull):
            await guest.write_file("small/file", chunked(*[b"z" * 100_000] * 20))
        assert os.listdir(small) == []
    finally:
        await commands.run("umount", str(small))


async def test_listing_is_by_name_and_follows_links(guest: VirtioGuest, agent: AgentProcess) -> None:
    (agent.home / "b").mkdir()
    (agent.home / "a").write_text("12345")
    (agent.home / "c").symlink_to("b")
    (agent.home / "d").symlink_to("nowhere")
    entries = await guest.list_directory(".")
    assert [(entry.name, entry.is_dir) for entry in entries] == [
        ("a", False),
        ("b", True),
        ("c", True),
        ("d", False),
    ]
    assert entries[0].size == 5
    assert entries[0].path == str(agent.home / "a")
    with pytest.raises(NotFound):
        await guest.list_directory("nothing")
    with pytest.raises(BadRequest) as caught:
        await guest.list_directory("a")
    assert caught.value.code == "not_a_directory"


async def test_a_listing_that_needs_many_frames(guest: VirtioGuest, agent: AgentProcess) -> None:
    for number in range(5000):
        (agent.home / f"{number:05}-{'n' * 100}").touch()
    assert len(await guest.list_directory(str(agent.home))) == 5000


async def test_names_that_are_not_utf8_survive(guest: VirtioGuest, agent: AgentProcess) -> None:
    raw = os.path.join(os.fsencode(agent.home), b"caf\xe9 \xff")
    os.close(os.open(raw, os.O_CREAT | os.O_WRONLY))
    os.truncate(raw, 1)
    (entry,) = await guest.list_directory(".")
    assert os.fsencode(entry.name) == b"caf\xe9 \xff"
    assert await read(guest, entry.path) == b"\0"
    await guest.write_file(entry.path, chunked(b"replaced"))
    assert await read(guest, entry.path) == b"replaced"
    await guest.delete(entry.path)
    assert os.listdir(agent.home) == []


async def test_directories_are_made_with_parents_and_again(guest: VirtioGuest, agent: AgentProcess) -> None:
    await guest.make_directory("p/q/r")
    await guest.make_directory("p/q/r")
    assert (agent.home / "p/q/r").is_dir()
    (agent.home / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(BadRequest) as caught:
            await guest.make_directory(path)
        assert caught.value.code == "not_a_directory"


async def test_deleting_takes_everything_below_but_not_behind_links(
    guest: VirtioGuest, agent: AgentProcess
) -> None:
    outside = agent.home / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    deep = agent.home / "tree" / "x" / "y"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    (agent.home / "tree" / "link").symlink_to(outside)
    await guest.delete("tree")
    await guest.delete("tree")
    assert os.listdir(agent.home) == ["outside"]
    assert (outside / "kept").exists()


@pytest.mark.parametrize(
    "path", ["/", "/dev", "/proc/", "/sys", "/home/..", "//", "/dev/../proc/.", "/tmp/../.."]
)
async def test_what_must_never_be_deleted(guest: VirtioGuest, path: str) -> None:
    with pytest.raises(BadRequest, match="cannot be deleted"):
        await guest.delete(path)


async def test_many_transfers_at_once(guest: VirtioGuest, agent: AgentProcess) -> None:
    before = agent.open_files()

    async def there_and_back(number: int) -> None:
        content = bytes([number]) * 300_000
        await guest.write_file(f"f{number}", chunked(content))
        assert await read(guest, f"f{number}") == content

    await asyncio.gather(*(there_and_back(number) for number in range(100)))
    assert len(os.listdir(agent.home)) == 100
    await eventually(lambda: agent.open_files() <= before + 1, what="every descriptor to be closed")


async def test_downloads_that_nobody_takes_hold_up_no_other(guest: VirtioGuest, agent: AgentProcess) -> None:
    (agent.home / "big").write_bytes(bytes(3_000_000))
    stuck = [guest.read_file("big") for _ in range(40)]
    for reading in stuck:
        await anext(reading)
    assert await guest.write_file("small", chunked(b"goes through")) == 12
    assert await read(guest, "small") == b"goes through"
    for reading in stuck:
        assert sum([len(chunk) async for chunk in reading]) > 2_900_000 - 65536


async def test_statistics_make_sense(guest: VirtioGuest) -> None:
    stats = await guest.stats()
    assert 0 < stats.memory_used < stats.memory_total
    assert 0 < stats.disk_used < stats.disk_total
    assert stats.uptime_s > 0
