"""Grow the data file system to its device, mounted as it is."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.data_disk import grow_command
from sandfleet.agent.programs import run_program
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed


def start(agent: Agent, stream: Stream, _fields: Fields) -> None:
    """Answer when the file system has its new size."""

    def on_end(exit_code: int, said: str) -> None:
        if exit_code == 0:
            stream.finish({})
        else:
            stream.fail(OperationFailed(Code.INTERNAL, f"resize2fs: exit code {exit_code}: {said}"))

    if agent.is_init:
        run_program(agent, grow_command(), on_end)
    else:
        stream.finish({})
