"""Attach to a command: what is kept of its output, then what follows, for a client behind the host.

Unlike `exec_read` it chooses the beginning itself, in one step with taking the reader
in, and it keeps what the host has not acknowledged.
"""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.execution import Execution
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Fields, encode_json


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """The first DATA is the status with `start` and `replay_to`, the offsets where replay begins and ends."""
    execution = agent.execs.find(fields.text("id"))
    log = execution.log
    offset = _offset(execution, fields)
    head = {**execution.describe(), "start": offset, "replay_to": max(offset, log.end)}
    execution.readers.attach(
        stream, log, offset=offset, at_end=execution.final_status, head=encode_json(head)
    )
    execution.state.was_attached = True


def _offset(execution: Execution, fields: Fields) -> int:
    """Return where to begin: the given offset, else so many bytes back (another number for the first)."""
    given = fields.integer_or_none("offset")
    if given is not None:
        return given
    name = "scrollback" if execution.state.was_attached else "first_scrollback"
    return max(execution.log.oldest, execution.log.end - max(0, fields.integer(name)))
