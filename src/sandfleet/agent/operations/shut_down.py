"""Power the guest off cleanly."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, _fields: Fields) -> None:
    """Answer first: afterwards nobody could."""
    stream.finish({})
    agent.loop.call_soon(agent.power_off)
