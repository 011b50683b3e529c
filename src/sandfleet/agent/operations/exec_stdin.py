"""Give bytes to a command's standard input.

With `writer` and `position` a call may be repeated: each byte is taken once.
"""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields, OperationFailed


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Take DATA until its end; answer when there is room for more."""
    stdin = agent.execs.find(fields.text("id")).stdin
    is_last = fields.flag("end", False)
    writer, position = fields.text_or_none("writer"), fields.integer("position", 0)

    def on_data(data: bytes) -> None:
        nonlocal position
        if writer is None:
            stdin.put(data)
        else:
            try:
                stdin.put_at(writer, position, data)
            except OperationFailed as failure:
                stream.fail(failure)
                return
            position += len(data)
        stdin.when_room(lambda: stream.consumed(len(data)))

    def on_input_end() -> None:
        if is_last:
            stdin.end()
        stdin.when_room(lambda: stream.finish({}))

    stream.on_data = on_data
    stream.on_input_end = on_input_end
