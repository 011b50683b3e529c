"""Step the guest's clock."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.operations.identity import set_clock
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Set the wall clock."""
    wall_clock_s = fields.number("wall_clock_s")
    if agent.is_init:
        set_clock(wall_clock_s)
    stream.finish({})
