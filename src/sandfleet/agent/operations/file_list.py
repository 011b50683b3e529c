"""List a directory."""

from __future__ import annotations

import os
from typing import Any

from sandfleet.agent.blocking_stream import BlockingStream, run_in_thread
from sandfleet.agent.context import Agent
from sandfleet.agent.paths import entry_of, path_of
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed

ENTRIES_MAX = 200_000


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with the entries by name; a symlink shows what it leads to, or itself if that is missing."""

    def job(stream: BlockingStream, fields: Fields) -> dict[str, Any]:
        path = path_of(fields, agent.places)
        entries: list[dict[str, Any]] = []
        with os.scandir(path) as found:
            for entry in found:
                if len(entries) >= ENTRIES_MAX:
                    raise OperationFailed(Code.BAD_REQUEST, f"more than {ENTRIES_MAX} entries")
                stream.check()
                described = _describe(entry, os.path.normpath(path))
                if described is not None:
                    entries.append(described)
        entries.sort(key=lambda entry: os.fsencode(entry["name"]))
        return {"entries": entries}

    run_in_thread(agent.loop, agent.threads, stream=stream, fields=fields, job=job)


def _describe(entry: os.DirEntry[str], directory: str) -> dict[str, Any] | None:
    """Return the entry, None if it vanished meanwhile."""
    for follow in (True, False):
        try:
            facts = entry.stat(follow_symlinks=follow)
        except OSError:
            continue
        return entry_of(os.path.join(directory, entry.name), name=entry.name, facts=facts)
    return None
