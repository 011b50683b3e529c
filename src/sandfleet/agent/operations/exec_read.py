"""Send a command's output from an offset on, until it has ended and all is sent."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """DATA carries the pieces, the result is the final status."""
    execution = agent.execs.find(fields.text("id"))
    execution.readers.attach(
        stream,
        execution.log,
        offset=fields.integer("offset"),
        at_end=execution.final_status,
    )
