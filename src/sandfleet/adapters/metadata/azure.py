"""What Azure tells a virtual machine about itself: its scheduled events.

Facts: the endpoint answers nobody without the header `Metadata`. A list holds the events of all machines that
stand together, so it is looked through for this one's name. An event that has begun says no time any more.
"""

from __future__ import annotations

import msgspec

from sandfleet.adapters.metadata.endpoint import MetadataEndpoint, time_of
from sandfleet.model.errors import Unavailable
from sandfleet.ports.announcements import Announcement, earliest

_EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_HEADERS = {"Metadata": "true"}
_ENDING = frozenset({"Preempt", "Terminate", "Reboot", "Redeploy"})
"""No VM outlives any of these; a machine that is frozen for seconds goes on."""


class _Event(msgspec.Struct, frozen=True, rename="pascal"):
    event_type: str
    event_status: str = ""
    resources: tuple[str, ...] = ()
    not_before: str = ""
    description: str = ""

    @property
    def announcement(self) -> Announcement:
        at = time_of(self.not_before) if self.not_before else None
        return Announcement(
            at, f"{self.event_type}: {self.description}" if self.description else self.event_type
        )


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    events: tuple[_Event, ...] = ()


class AzureMetadata:
    """One machine's own."""

    def __init__(self, endpoint: MetadataEndpoint) -> None:
        self._endpoint = endpoint
        self._name: str | None = None

    async def announced(self) -> Announcement | None:
        """Return the earliest that ends this machine; one that has begun comes first."""
        name = await self._own_name()
        body = await self._endpoint.ask(_EVENTS, headers=_HEADERS)
        try:
            answer = msgspec.json.decode(body or b"{}", type=_Answer)
        except msgspec.DecodeError as error:
            raise Unavailable(f"Azure answered what cannot be read: {error}") from error
        mine = [one for one in answer.events if one.event_type in _ENDING and name in one.resources]
        return earliest(one.announcement for one in mine if one.event_status != "Completed")

    async def _own_name(self) -> str:
        if self._name is None:
            body = await self._endpoint.ask(_NAME, headers=_HEADERS)
            if not body:
                raise Unavailable("Azure does not say what this machine is called")
            self._name = body.decode("utf-8", "replace").strip()
        return self._name
