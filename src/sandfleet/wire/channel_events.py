"""What the agent channel tells its user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """Both sides know of each other; nothing of an earlier session counts any more."""


@dataclass(frozen=True, slots=True)
class SessionLost:
    """The agent's session ended without a new one (a cut or a broken rule)."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The host asks for an operation."""

    stream: int
    request: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes for the stream's consumer, who gives them back as credit by `consumed`."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """No more DATA comes. To the host this is the end, with the result."""

    stream: int
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer gave the stream up."""

    stream: int
    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreditGiven:
    """More may be sent on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ponged:
    """The peer answered a ping."""

    token: bytes


Event = (
    SessionStarted
    | SessionLost
    | StreamOpened
    | DataReceived
    | StreamEnded
    | StreamReset
    | CreditGiven
    | Ponged
)
