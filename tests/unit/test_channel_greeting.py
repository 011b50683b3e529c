"""The greeting is repeated until it is answered."""

from __future__ import annotations

from sandfleet.wire.channel import AgentChannel, HostChannel
from sandfleet.wire.channel_events import SessionStarted, StreamOpened


def _received(channel: HostChannel | AgentChannel, pieces: list[bytes]) -> list[object]:
    return [event for piece in pieces for event in channel.receive(piece)]


def test_a_lost_greeting_is_made_good_by_the_next() -> None:
    host, agent = HostChannel(b"n" * 16), AgentChannel()
    host.take_output()
    host.greet()
    assert SessionStarted() in _received(agent, host.take_output())
    assert _received(host, agent.take_output()) == [SessionStarted()]


def test_two_greetings_that_both_arrive_are_one_session() -> None:
    host, agent = HostChannel(b"n" * 16), AgentChannel()
    host.greet()
    _received(agent, host.take_output())
    answers = agent.take_output()
    assert _received(host, answers) == [SessionStarted()]
    host.greet()
    host.open({"op": "x"})
    events = _received(agent, host.take_output())
    assert [type(event) for event in events] == [StreamOpened]
