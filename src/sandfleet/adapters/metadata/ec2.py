"""What EC2 tells an instance about itself: interruptions of spot instances, and events by the calendar.

Facts: questions need a token that a PUT gives and that runs out. `spot/instance-action` is not there (404)
until two minutes before; scheduled events are a list, in which those that are over stay for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from sandfleet.adapters.metadata.endpoint import MetadataEndpoint, Refused, time_of
from sandfleet.model.errors import Unavailable
from sandfleet.ports.announcements import Announcement, earliest

T = TypeVar("T")
TOKEN_TTL_S = 21600
_ENDING = frozenset({"instance-stop", "instance-retirement", "instance-reboot", "system-reboot"})
"""No VM outlives any of these, whatever becomes of its host."""


class _Interruption(msgspec.Struct, frozen=True):
    action: str
    time: datetime


class _Event(msgspec.Struct, frozen=True, rename="pascal"):
    code: str
    state: str
    not_before: str
    description: str = ""


class Ec2Metadata:
    """One instance's own."""

    def __init__(self, endpoint: MetadataEndpoint) -> None:
        self._endpoint = endpoint
        self._token: str | None = None

    async def announced(self) -> Announcement | None:
        """Return the earlier of what both say; either is enough when the other does not answer."""
        found: list[Announcement] = []
        trouble: Unavailable | None = None
        for ask in (self._interruption, self._events):
            try:
                found += await ask()
            except Unavailable as error:
                trouble = error
        if not found and trouble is not None:
            raise trouble
        return earliest(found)

    async def _interruption(self) -> Sequence[Announcement]:
        body = await self._ask("/latest/meta-data/spot/instance-action")
        if body is None:
            return []
        said = _read(body, _Interruption)
        return [Announcement(said.time, f"spot interruption ({said.action})")]

    async def _events(self) -> Sequence[Announcement]:
        body = await self._ask("/latest/meta-data/events/maintenance/scheduled")
        events = [] if not body else _read(body, list[_Event])
        return [
            Announcement(time_of(one.not_before), one.description or one.code)
            for one in events
            if one.code in _ENDING and one.state == "active"
        ]

    async def _ask(self, path: str) -> bytes | None:
        if self._token is None:
            wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
            token = await self._endpoint.ask("/latest/api/token", headers=wanted, method="PUT")
            if token is None:
                raise Unavailable("there is no token to be had")
            self._token = token.decode("ascii", "replace").strip()
        try:
            return await self._endpoint.ask(path, headers={"X-aws-ec2-metadata-token": self._token})
        except Refused:
            self._token = None
            raise


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(f"EC2 answered what cannot be read: {error}") from error
