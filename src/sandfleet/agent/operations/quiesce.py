"""Write everything to the disks, so that memory and disk may be captured."""

from __future__ import annotations

import os
from typing import Any

from sandfleet.agent.blocking_stream import BlockingStream, run_in_thread
from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer when all file systems are in sync."""

    def job(_stream: BlockingStream, _fields: Fields) -> dict[str, Any]:
        os.sync()
        return {}

    run_in_thread(agent.loop, agent.threads, stream=stream, fields=fields, job=job)
