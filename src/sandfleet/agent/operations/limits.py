"""Bound what all user processes together may use."""

from __future__ import annotations

from sandfleet.agent.context import Agent
from sandfleet.agent.streams import Stream
from sandfleet.wire.agent_messages import Code, Fields, OperationFailed


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Set memory, CPU and process limits of the users' cgroup."""
    memory_mib, cpu_percent, pids_max = (
        fields.integer(name) for name in ("memory_mib", "cpu_percent", "pids_max")
    )
    if min(memory_mib, cpu_percent, pids_max) < 1:
        raise OperationFailed(Code.BAD_REQUEST, "a limit below one")
    if agent.cgroups is not None:
        agent.cgroups.set_limits(memory_mib=memory_mib, cpu_percent=cpu_percent, pids_max=pids_max)
    stream.finish({})
