"""Say what stands at a path."""

from __future__ import annotations

import os
from typing import Any

from sandfleet.agent.blocking_stream import BlockingStream, run_in_thread
from sandfleet.agent.context import Agent
from sandfleet.agent.paths import entry_of, path_of
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with the entry; symlinks are followed."""

    def job(_stream: BlockingStream, fields: Fields) -> dict[str, Any]:
        path = path_of(fields, agent.places)
        normal = os.path.normpath(path)
        return entry_of(normal, name=os.path.basename(normal), facts=os.stat(path))

    run_in_thread(agent.loop, agent.threads, stream=stream, fields=fields, job=job)
