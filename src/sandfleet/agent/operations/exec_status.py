"""Say how a command stands."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with the status."""
    stream.finish(agent.execs.find(fields.text("id")).describe())
