"""Wait for the end of a command, for a bounded time."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import EXEC_WAIT_S_MAX, Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Answer with the status at the end, or as it is when the time is over."""
    execution = agent.execs.find(fields.text("id"))
    seconds = max(0.0, min(fields.number("timeout_s"), EXEC_WAIT_S_MAX))

    def answer() -> None:
        stop_waiting()
        stream.finish(execution.describe())

    def stop_waiting() -> None:
        timer.cancel()
        execution.forget_waiter(answer)

    timer = agent.loop.call_later(seconds, answer)
    stream.on_abort = stop_waiting
    execution.when_ended(answer)
