"""WebSockets at the worker's edge: refused with an answer before the upgrade, with a close code after it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Message, Send

from sandfleet.model.errors import Gone, NotFound, OffsetGone, SandfleetError
from sandfleet.wire import session_frames as frames
from sandfleet.wire.errors import error_body, error_headers, status_of
from sandfleet.worker.call import JSON_TYPE, printable


class SocketState:
    """How far an upgrade has come; everything a socket sends passes here."""

    def __init__(self, send: Send, *, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.is_open = False
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send, and remember that the upgrade is done."""
        if message["type"] == "websocket.accept":
            self.is_open, self.status = True, 101
        elif message["type"] == "websocket.close":
            self.is_open = False
        await self._send(message)

    async def end_with(self, error: SandfleetError) -> None:
        """Refuse the upgrade, or close what is open."""
        if self.status:
            if self.is_open:
                await self.send({"type": "websocket.close", "code": close_code(error)})
            return
        self.status = status_of(error)
        body: dict[str, Any] = error_body(error, request_id=self._request_id)
        body["error"] = printable(body["error"])
        encoded = msgspec.json.encode(body)
        headers = {
            "content-type": JSON_TYPE,
            # ASCII: what is not, JSON can escape.
            frames.PROBLEM_HEADER.lower(): encoded.decode("ascii", "replace").replace("\ufffd", "?"),
            **{name.lower(): value for name, value in error_headers(error).items()},
        }
        await self._send(
            {
                "type": "websocket.http.response.start",
                "status": self.status,
                "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            }
        )
        await self._send({"type": "websocket.http.response.body", "body": encoded})


def close_code(error: SandfleetError) -> int:
    """Return the close code of a failure after the upgrade; `GOING_AWAY` asks to look again."""
    if isinstance(error, OffsetGone):
        return frames.NOT_KEPT
    if isinstance(error, NotFound):
        return frames.UNKNOWN
    if isinstance(error, Gone):
        return frames.ENDED
    return frames.GOING_AWAY
