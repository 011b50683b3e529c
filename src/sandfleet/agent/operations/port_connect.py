"""Connect to a port of this guest, once per id; then it is read and written as an exec is.

It goes to the address by which others would reach the guest, so what listens for the guest
alone stays the guest's own.
"""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.network import ADDRESS
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed

PORT_MAX = 65535
_OF_A_HOST = "127.0.0.1"


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with its status when it stands, with `refused` when the port takes none."""
    port = fields.integer("port")
    if not 1 <= port <= PORT_MAX:
        raise OperationFailed(Code.BAD_REQUEST, f"no port {port}")
    address = ADDRESS if agent.is_init else _OF_A_HOST
    connection = agent.execs.connections.open(fields.text("id"), (address, port))

    def answer() -> None:
        if connection.failure is not None:
            stream.fail(connection.failure)
        else:
            stream.finish(connection.describe())

    connection.when_started(answer)
