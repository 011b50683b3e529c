"""A client's WebSocket: refused with an answer before it is accepted, ended by a close code after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import Receive, Send

from sandfleet.controlplane.http.answers import error_answer
from sandfleet.model.errors import Gone, NotFound, OffsetGone, SandfleetError, Unavailable
from sandfleet.wire import session_frames as frames

SLOW_AFTER_S = 60.0
BROKEN = 1011


class ClientSlow(Exception):
    """The client has taken no byte for so long that it is given up."""


class ClientSocket:
    """One socket. Sending waits for the client, but not for ever."""

    def __init__(self, receive: Receive, send: Send, *, request_id: str) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self.accepted = asyncio.Event()
        self._is_closed = False

    @property
    def untaken_bytes(self) -> int:
        """Nothing: what was sent is on its way, and a client that breaks off says where it stands."""
        return 0

    async def accept(self, headers: Mapping[str, str]) -> None:
        """Let the client in."""
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "websocket.accept", "headers": pairs})
        self.accepted.set()

    async def receive(self) -> bytes | str | None:
        """Return the next message, None when there will be no more."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            self._is_closed = True
            return None
        data: bytes | str | None = message.get("bytes")
        return data if data is not None else message.get("text", "")

    async def send(self, data: bytes) -> None:
        """Send one message, once the client is let in; ClientSlow."""
        await self.accepted.wait()
        try:
            async with asyncio.timeout(SLOW_AFTER_S):
                await self._send({"type": "websocket.send", "bytes": data})
        except TimeoutError as error:
            raise ClientSlow from error

    async def close(self, code: int) -> None:
        """Close, unless that has happened."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(OSError):  # the client may have left this very moment
            await self._send({"type": "websocket.close", "code": code})

    async def end_with(self, error: SandfleetError) -> None:
        """Refuse the upgrade with an answer, or close what is open."""
        if self.accepted.is_set():
            await self.close(close_code(error))
            return
        self._is_closed = True
        answer = error_answer(error, request_id=self._request_id)
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        headers.append((b"content-type", (answer.media_type or "").encode()))
        with suppress(OSError):
            await self._send(
                {"type": "websocket.http.response.start", "status": answer.status, "headers": headers}
            )
            await self._send({"type": "websocket.http.response.body", "body": answer.body})


def close_code(error: SandfleetError) -> int:
    """Return the close code of a failure after the upgrade."""
    if isinstance(error, OffsetGone):
        return frames.NOT_KEPT
    if isinstance(error, NotFound):
        return frames.UNKNOWN
    if isinstance(error, Gone):
        return frames.ENDED
    if isinstance(error, Unavailable):
        return frames.GOING_AWAY if error.code == "shutting_down" else frames.TRY_LATER
    return BROKEN
