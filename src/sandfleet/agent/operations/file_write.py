"""Replace a file by what the host sends, in one step at the end."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from sandfleet.agent.blocking_stream import BlockingStream, run_in_thread
from sandfleet.agent.context import Agent
from sandfleet.agent.paths import give_to_user, make_directories, path_of
from sandfleet.agent.streams import Stream
from sandfleet.agent.users import ids_of
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed

NEW_FILE_MODE = 0o644
GATHERED_BYTES = 256 * 1024
"""Frames are written together: a translated guest pays for each system call."""


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with the size. Whatever goes wrong before leaves the old content and nothing else."""

    def job(stream: BlockingStream, fields: Fields) -> dict[str, Any]:
        asked = path_of(fields, agent.places)
        path = os.path.realpath(asked)
        old = _existing(path)
        if asked.endswith("/"):
            raise OperationFailed(Code.IS_DIRECTORY, f"is a directory: {path}")
        owner = ids_of(agent.users, agent.places.user, switches_user=agent.places.switches_user)
        make_directories(os.path.dirname(path), agent.places, user_ids=owner)
        with _temporary(path) as (temporary, fd):
            size = _receive(stream, fd)
            if old is None:
                os.fchmod(fd, NEW_FILE_MODE)
                give_to_user(temporary, agent.places, user_ids=owner)
            else:
                _keep_owner_and_mode(fd, old)
            os.rename(temporary, path)
        return {"size": size}

    run_in_thread(agent.loop, agent.threads, stream=stream, fields=fields, job=job)


def _existing(path: str) -> os.stat_result | None:
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(facts.st_mode):
        raise OperationFailed(Code.IS_DIRECTORY, f"is a directory: {path}")
    if not stat.S_ISREG(facts.st_mode):
        raise OperationFailed(Code.BAD_REQUEST, f"not a regular file: {path}")
    return facts


@contextlib.contextmanager
def _temporary(path: str) -> Iterator[tuple[str, int]]:
    """Yield a new file beside `path`; it is gone afterwards unless it was renamed."""
    temporary = os.path.join(os.path.dirname(path), f".osb-upload-{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield temporary, fd
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _receive(stream: BlockingStream, fd: int) -> int:
    size = 0
    gathered = bytearray()
    while data := stream.read():
        gathered += data
        if len(gathered) >= GATHERED_BYTES:
            size += _write_all(fd, gathered)
    return size + _write_all(fd, gathered)


def _write_all(fd: int, gathered: bytearray) -> int:
    size = len(gathered)
    with memoryview(gathered) as view:
        written = 0
        while written < size:
            written += os.write(fd, view[written:])
    gathered.clear()
    return size


def _keep_owner_and_mode(fd: int, old: os.stat_result) -> None:
    with contextlib.suppress(PermissionError):  # an agent that is not root keeps what it can
        os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode))
