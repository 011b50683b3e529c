"""Make a directory and its parents."""

from __future__ import annotations

from sandfleet.agent.blocking_stream import BlockingStream, run_in_thread
from sandfleet.agent.context import Agent
from sandfleet.agent.paths import make_directories, path_of
from sandfleet.agent.streams import Stream
from sandfleet.agent.users import ids_of
from sandfleet.wire.agent_messages import Fields


def start(agent: Agent, stream: Stream, fields: Fields) -> None:
    """Like `mkdir -p`."""

    def job(_stream: BlockingStream, fields: Fields) -> dict[str, str]:
        owner = ids_of(agent.users, agent.places.user, switches_user=agent.places.switches_user)
        make_directories(path_of(fields, agent.places), agent.places, user_ids=owner)
        return {}

    run_in_thread(agent.loop, agent.threads, stream=stream, fields=fields, job=job)
