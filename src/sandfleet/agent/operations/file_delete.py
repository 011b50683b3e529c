"""Remove a file, or a directory and all below it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from sandfleet.agent.blocking_stream import BlockingStream, run_in_thread
from sandfleet.agent.context import Agent
from sandfleet.agent.paths import NEVER_DELETED, path_of
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """A missing path is no error; a symlink is removed, not what it leads to."""

    def job(stream: BlockingStream, fields: Fields) -> dict[str, Any]:
        path = _resolved(path_of(fields, agent.places))
        if path in NEVER_DELETED:
            raise OperationFailed(Code.BAD_REQUEST, f"{path} cannot be deleted")
        with contextlib.suppress(FileNotFoundError):
            _remove(path, stream)
        return {}

    run_in_thread(agent.loop, agent.threads, stream=stream, fields=fields, job=job)


def _resolved(path: str) -> str:
    """Return the path with everything resolved but a symlink in its last part."""
    parent, name = os.path.split(path.rstrip("/") or "/")
    if name in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(parent), name)


def _remove(path: str, stream: BlockingStream) -> None:
    try:
        os.unlink(path)
        return
    except IsADirectoryError:
        pass
    except PermissionError:  # what POSIX says for a directory
        if not os.path.isdir(path) or os.path.islink(path):
            raise
    for directory, directories, files in os.walk(path, topdown=False):
        stream.check()
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        for name in directories:
            _remove_directory(os.path.join(directory, name))
    os.rmdir(path)


def _remove_directory(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.islink(path):
            os.unlink(path)
        else:
            os.rmdir(path)
