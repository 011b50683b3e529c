"""Change the size of a command's terminal."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.agent.terminal import TerminalSize
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Set the size; the process hears of it by SIGWINCH."""
    execution = agent.execs.find(fields.text("id"))
    size = TerminalSize(cols=fields.integer("cols"), rows=fields.integer("rows"))
    if not size.is_valid:
        raise OperationFailed(Code.BAD_REQUEST, "no such size of a terminal")
    execution.resize(size)
    stream.finish({})
