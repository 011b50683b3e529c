"""One connection to a guest's agent: the channel's session over a unix socket.

There is no task behind it: the event loop's callbacks feed the channel, and the
callers' own tasks wait. So nothing can leak but the transport, which `abort` closes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sandfleet.adapters.awake import awake_timeout
from sandfleet.adapters.guest.failures import error_of
from sandfleet.model.errors import NotReady, SandfleetError
from sandfleet.wire.channel import NONCE_BYTES, STREAMS_MAX, HostChannel, ProtocolBroken
from sandfleet.wire.channel_events import (
    CreditGiven,
    DataReceived,
    Event,
    Ponged,
    SessionStarted,
    StreamEnded,
    StreamReset,
)

GREET_AGAIN_S = 0.1


class ConnectionBroken(Exception):
    """The connection is gone; what was in flight may or may not have happened."""


class HostStream:
    """One operation in flight, used by one task."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self._received: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        self.result: Mapping[str, Any] | None = None

    @property
    def has_failed(self) -> bool:
        """Whether reading it to its end would raise."""
        return self._failure is not None

    async def receive(self, *, silence_s: float) -> bytes | None:
        """Return the next bytes, None when `result` is there.

        Raises the guest's error, `ConnectionBroken`, or `TimeoutError` after `silence_s` without anything.
        """
        while not self._received:
            if self._failure is not None:
                raise self._failure
            if self.result is not None:
                return None
            await self._wait(silence_s)
        data = self._received.popleft()
        self.connection.consumed(self, len(data))
        return data

    async def send(self, data: bytes | memoryview, *, silence_s: float) -> int:
        """Send as much of `data` as one frame and the credit take; return how much.

        Raises as `receive` does. A stream that the guest has ended takes everything.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self.result is not None:
                return len(data)
            credit = self.connection.credit(self)
            if credit > 0:
                piece = bytes(data[:credit])
                self.connection.send_data(self, piece)
                return len(piece)
            await self._wait(silence_s)

    def send_if_room(self, data: bytes) -> bool:
        """Send all of `data` if that needs no waiting; return whether it was sent."""
        is_open = self._failure is None and self.result is None
        if not is_open or self.connection.credit(self) < len(data):
            return False
        self.connection.send_data(self, data)
        return True

    def end_input(self) -> None:
        """Say that nothing more is sent."""
        self.connection.end_input(self)

    def drop(self) -> None:
        """Give the stream up if it has not ended."""
        self.connection.drop(self)
        self.fail(ConnectionBroken("given up"))

    def on_event(self, event: Event) -> None:
        """Handle what came for this stream."""
        if isinstance(event, DataReceived):
            self._received.append(event.data)
        elif isinstance(event, StreamEnded):
            self.result = event.result
        elif isinstance(event, StreamReset):
            self.fail(error_of(event.code, event.message, details=event.details))
        self._changed.set()

    def fail(self, error: SandfleetError | ConnectionBroken) -> None:
        """Let everybody who waits here fail; what was received before stays readable."""
        if self.result is None and self._failure is None:
            self._failure = error
        self._changed.set()

    def wake(self) -> None:
        """Let the waiting task look again."""
        self._changed.set()

    async def _wait(self, silence_s: float) -> None:
        self._changed.clear()
        async with awake_timeout(silence_s):
            await self._changed.wait()


class Connection(asyncio.Protocol):
    """The session. Every method but `open` belongs to the event loop's thread and does not wait."""

    def __init__(self) -> None:
        self._channel = HostChannel(secrets.token_bytes(NONCE_BYTES))
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, HostStream] = {}
        self._pongs: dict[bytes, asyncio.Event] = {}
        self._established = asyncio.Event()
        self._may_write = True
        self.is_broken = False

    @classmethod
    async def open(cls, path: Path, *, timeout_s: float) -> Connection:
        """Connect and greet; `ConnectionBroken` when nobody answers in time."""
        connection = cls()
        try:
            async with awake_timeout(timeout_s):
                await asyncio.get_running_loop().create_unix_connection(lambda: connection, str(path))
                await connection._greeted()
        except (OSError, TimeoutError) as error:
            connection.abort()
            raise ConnectionBroken(f"no answer at {path}: {error or 'time is over'}") from error
        except BaseException:
            connection.abort()
            raise
        if connection.is_broken:
            raise ConnectionBroken(f"{path} broke while greeting")
        return connection

    async def _greeted(self) -> None:
        """Return when the agent has answered; greet again, ever more slowly, until then."""
        pause_s = GREET_AGAIN_S
        while not self._established.is_set():
            try:
                async with asyncio.timeout(pause_s):
                    await self._established.wait()
            except TimeoutError:
                self._channel.greet()
                self._flush()
                pause_s *= 2

    def start(self, request: Mapping[str, Any]) -> HostStream:
        """Begin an operation."""
        if self.is_broken:
            raise ConnectionBroken("the connection is gone")
        if self._channel.open_streams >= STREAMS_MAX:
            raise NotReady("too many operations in this guest at once")
        number = self._channel.open(request)
        stream = self._streams[number] = HostStream(self, number)
        self._flush()
        return stream

    def consumed(self, stream: HostStream, count: int) -> None:
        """Let the guest send more."""
        self._channel.consumed(stream.number, count)
        self._flush()

    def credit(self, stream: HostStream) -> int:
        """Return how much may be sent now."""
        return self._channel.credit(stream.number) if self._may_write else 0

    def send_data(self, stream: HostStream, data: bytes) -> None:
        """Send bytes of a stream."""
        self._channel.send_data(stream.number, data)
        self._flush()

    def end_input(self, stream: HostStream) -> None:
        """End the input of a stream."""
        self._channel.end_input(stream.number)
        self._flush()

    def drop(self, stream: HostStream) -> None:
        """Forget a stream; the guest is told if it still works on it."""
        self._streams.pop(stream.number, None)
        if not self.is_broken:
            self._channel.reset(stream.number, code="cancelled", message="")
            self._flush()

    async def ping(self, *, timeout_s: float) -> None:
        """Return when the agent has answered; otherwise the connection is broken off."""
        token = secrets.token_bytes(8)
        answered = self._pongs[token] = asyncio.Event()
        try:
            if self.is_broken:
                raise ConnectionBroken("the connection is gone")
            self._channel.ping(token)
            self._flush()
            async with awake_timeout(timeout_s):
                await answered.wait()
        except TimeoutError as error:
            self.abort()
            raise ConnectionBroken("the agent does not answer") from error
        finally:
            self._pongs.pop(token, None)
        if self.is_broken:
            raise ConnectionBroken("the connection broke")

    def abort(self) -> None:
        """Break off."""
        if self._transport is not None:
            self._transport.abort()
        self._break(ConnectionBroken("broken off"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        # A stream by construction; uvloop's transports are not of asyncio's class.
        self._transport = cast(asyncio.Transport, transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Hand the guest's bytes to whom they concern."""
        try:
            for event in self._channel.receive(data):
                self._on_event(event)
        except ProtocolBroken as error:
            self._break(ConnectionBroken(f"the guest broke the protocol: {error}"))
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let everything in flight fail."""
        self._break(ConnectionBroken(str(exc or "the guest closed the connection")))

    def pause_writing(self) -> None:
        """Send no data until the socket has room."""
        self._may_write = False

    def resume_writing(self) -> None:
        """Go on sending."""
        self._may_write = True
        for stream in self._streams.values():
            stream.wake()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SessionStarted):
            self._established.set()
        elif isinstance(event, Ponged):
            answered = self._pongs.get(event.token)
            if answered is not None:
                answered.set()
        elif isinstance(event, (DataReceived, StreamEnded, StreamReset, CreditGiven)):
            stream = self._streams.get(event.stream)
            if stream is None:
                return
            stream.on_event(event)

    def _flush(self) -> None:
        pieces = self._channel.take_output()
        if pieces and self._transport is not None and not self.is_broken:
            self._transport.writelines(pieces)

    def _break(self, error: ConnectionBroken) -> None:
        if self.is_broken:
            return
        self.is_broken = True
        self._established.set()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(error)
        for answered in self._pongs.values():
            answered.set()
