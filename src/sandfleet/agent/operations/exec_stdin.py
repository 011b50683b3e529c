"""Give bytes to a command's standard input."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Take DATA until its end; answer when there is room for more."""
    stdin = agent.execs.find(fields.text("id")).stdin
    is_last = fields.flag("end", False)

    def on_data(data: bytes) -> None:
        stdin.put(data)
        stdin.when_room(lambda: stream.consumed(len(data)))

    def on_input_end() -> None:
        if is_last:
            stdin.end()
        stdin.when_room(lambda: stream.finish({}))

    stream.on_data = on_data
    stream.on_input_end = on_input_end
