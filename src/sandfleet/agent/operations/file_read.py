"""Send the content of a file."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from sandfleet.agent.blocking_stream import BlockingStream, run_in_thread
from sandfleet.agent.context import Agent
from sandfleet.agent.paths import path_of
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed, encode_json
from sandfleet.wire.frames import PAYLOAD_BYTES_MAX


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """The first DATA names what was opened, then comes the content from `offset` on.

    A host that continues after a broken session names it in `same_as`, so that it
    never joins the halves of two files.
    """

    def job(stream: BlockingStream, fields: Fields) -> dict[str, Any]:
        with _opened(path_of(fields, agent.places)) as fd:
            facts = os.fstat(fd)
            _check_regular(facts)
            identity = f"{facts.st_dev}:{facts.st_ino}:{facts.st_mtime_ns}:{facts.st_size}"
            if fields.text_or_none("same_as") not in (None, identity):
                raise OperationFailed(Code.CHANGED, "the file was changed while it was read")
            stream.write(encode_json({"identity": identity, "size": facts.st_size}))
            os.lseek(fd, max(0, fields.integer("offset", 0)), os.SEEK_SET)
            while chunk := os.read(fd, PAYLOAD_BYTES_MAX):
                stream.write(chunk)
        return {}

    run_in_thread(agent.loop, agent.threads, stream=stream, fields=fields, job=job)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    # Nonblocking: opening a pipe that nobody writes to must not hold the thread.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        yield fd
    finally:
        os.close(fd)


def _check_regular(facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise OperationFailed(Code.IS_DIRECTORY, "is a directory")
    if not stat.S_ISREG(facts.st_mode):
        raise OperationFailed(Code.BAD_REQUEST, "not a regular file")
