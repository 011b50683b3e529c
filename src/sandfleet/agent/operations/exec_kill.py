"""Signal a command."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed

SIGNAL_MAX = 64


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Signal 9 kills the whole cgroup, others go to the process group; a finished command takes any."""
    execution = agent.execs.find(fields.text("id"))
    number = fields.integer("signal")
    if not 1 <= number <= SIGNAL_MAX:
        raise OperationFailed(Code.BAD_REQUEST, f"no signal {number}")
    execution.kill(number)
    stream.finish({})
