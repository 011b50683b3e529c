"""The server's side of WebSockets, for the control plane and for workers.

Facts: uvicorn reads nothing while a message waits for the application. So a client that
is held up (its stdin is not taken) cannot be heard to answer a ping, and must not be
taken for dead. An upgrade that was refused with an answer is complete, which uvicorn
itself would log as a defect.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

PING_EVERY_S = 20.0
GIVE_UP_AFTER_S = 60.0
PONG_WITHIN_S = 40.0
"""After the ping: a peer that has gone without a word is noticed within a minute."""


class WebSocketServer(WebSocketsSansIOProtocol):
    """One connection."""

    def keepalive_timeout(self) -> None:
        """Close a connection that did not answer, unless it was not listened to."""
        if self.read_paused and not self.transport.is_closing():
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()

    async def send(self, message: Any) -> None:
        """Send for the application; a close frame does not wait for a slow client but goes last."""
        if message["type"] == "websocket.close":
            self.writable.set()
            self.loop.call_later(GIVE_UP_AFTER_S, self._give_up)
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True

    def _give_up(self) -> None:
        """Drop what a client has not taken long after the close."""
        if not self.disconnected:
            self.transport.abort()


def server_options(*, message_bytes_max: int) -> dict[str, Any]:
    """Return what uvicorn is configured with."""
    return {
        "ws": WebSocketServer,
        "ws_max_size": message_bytes_max,
        "ws_ping_interval": PING_EVERY_S,
        "ws_ping_timeout": PONG_WITHIN_S,
        "ws_per_message_deflate": False,
    }
