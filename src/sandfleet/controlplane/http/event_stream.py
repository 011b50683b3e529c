"""An answer of server-sent events, for as long as the client stays and this replica does.

Rule 1: after `sse_keepalive_s` without an event a comment is sent.
Rule 2: a replica that is about to go ends its streams at once; readers go on elsewhere by the last id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.http.call import Call
from sandfleet.controlplane.proxy.relay import client_left
from sandfleet.model.errors import SandfleetError
from sandfleet.wire.server_sent_events import KEEPALIVE, MEDIA_TYPE

log = structlog.get_logger(__name__)

HEADERS: Mapping[str, str] = {
    "content-type": MEDIA_TYPE,
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class EventStream:
    """Sends what `pieces` yields; an empty piece means that there is nothing new."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def send_to(self, call: Call) -> None:
        """Send head and events."""
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        if call.method != "HEAD":
            async with TaskGroup() as group:
                parts = [
                    group.create_task(self._send_events(call)),
                    group.create_task(client_left(call)),
                    group.create_task(call.edge.drain.noticed()),
                ]
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in parts:
                    part.cancel()
        await call.send({"type": "http.response.body", "body": b""})

    async def _send_events(self, call: Call) -> None:
        clock, every_s = call.edge.plane.clock, call.edge.plane.settings.sse_keepalive_s
        sent_at = clock.monotonic()
        try:
            async for piece in self._pieces:
                if not piece and clock.monotonic() - sent_at < every_s:
                    continue
                await call.send({"type": "http.response.body", "body": piece or KEEPALIVE, "more_body": True})
                sent_at = clock.monotonic()
        except SandfleetError as error:  # too late to say it: the reader comes back and hears
            log.warning("a stream of events broke off", request_id=call.request_id, reason=error.message)
