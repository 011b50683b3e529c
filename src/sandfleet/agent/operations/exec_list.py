"""List all commands that are still known."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, _fields: Fields) -> None:
    """Answer with their statuses, oldest first."""
    stream.finish({"execs": [execution.describe() for execution in agent.execs.all()]})
