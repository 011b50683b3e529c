"""Calls to the agent over connections that may break: bounds, repetition, liveness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sandfleet.adapters.guest.connection import Connection, ConnectionBroken, HostStream
from sandfleet.model.errors import BadRequest, GuestUnresponsive, SandfleetError
from sandfleet.ports.clock import Clock
from sandfleet.wire.agent_messages import (
    INLINE_JSON_BYTES_MAX,
    REQUEST_BODY_BYTES_MAX,
    RESULT_BODY_BYTES_MAX,
    Fields,
    MalformedMessage,
    decode_json,
    encode_json,
)

T = TypeVar("T")
ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class GuestBounds:
    """How long the adapter waits for what. A host full of translated guests is slow: be generous."""

    connect_s: float = 5.0
    """One try to connect and greet."""
    reconnect_s: float = 15.0
    """All tries after a break."""
    retry_pause_s: float = 0.05
    silence_s: float = 10.0
    """Without a byte for so long the agent is asked whether it lives."""
    answer_s: float = 10.0
    """It must answer that within this."""
    operation_s: float = 120.0
    """An operation whose progress stops for so long fails, though the agent lives."""


class Calls:
    """The present connection, made when it is needed. Used by many tasks at once."""

    def __init__(self, path: Path, *, bounds: GuestBounds, clock: Clock) -> None:
        self._path = path
        self.bounds = bounds
        self._clock = clock
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def connection(self) -> Connection:
        """Return a connection that stands, within `reconnect_s`."""
        async with self._connecting:
            if self._connection is not None and not self._connection.is_broken:
                return self._connection
            deadline = self._clock.monotonic() + self.bounds.reconnect_s
            while True:
                if self._closed:
                    raise GuestUnresponsive("the session is closed")
                try:
                    self._connection = await Connection.open(self._path, timeout_s=self.bounds.connect_s)
                except ConnectionBroken as error:
                    if self._clock.monotonic() + self.bounds.retry_pause_s >= deadline:
                        raise GuestUnresponsive(str(error)) from error
                    await self._clock.sleep(self.bounds.retry_pause_s)
                else:
                    return self._connection

    def disconnect(self) -> None:
        """End the present connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.abort()

    def close(self) -> None:
        """End the session; calls in flight fail."""
        self._closed = True
        self.disconnect()

    async def ping(self) -> None:
        """Return when the agent has answered, over a new connection if this one is dead."""

        async def once() -> None:
            await (await self.connection()).ping(timeout_s=self.bounds.answer_s)

        await self.repeat(once)

    async def call(self, request: Mapping[str, Any]) -> Fields:
        """Do an operation that is safe to repeat, and return its result."""

        async def once() -> Fields:
            async with self.stream(request) as stream:
                stream.end_input()
                return await self.result_of(stream)

        return await self.repeat(once)

    async def repeat(self, once: Callable[[], Awaitable[T]]) -> T:
        """Do `once`, again after a broken connection, a bounded number of times."""
        for _ in range(ATTEMPTS_MAX - 1):
            with contextlib.suppress(ConnectionBroken):
                return await once()
        try:
            return await once()
        except ConnectionBroken as error:
            raise GuestUnresponsive(str(error)) from error

    @contextlib.asynccontextmanager
    async def stream(self, request: Mapping[str, Any]) -> AsyncIterator[HostStream]:
        """Begin an operation; what has not ended on leaving is given up."""
        stream = await self.open(request)
        try:
            yield stream
        finally:
            stream.drop()

    async def open(self, request: Mapping[str, Any]) -> HostStream:
        """Begin an operation; the caller drops the stream."""
        encoded = encode_json(request)
        is_long = len(encoded) > INLINE_JSON_BYTES_MAX
        if len(encoded) > REQUEST_BODY_BYTES_MAX:
            raise BadRequest("the request is too long for the guest", code="too_large")
        connection = await self.connection()
        stream = connection.start({"op": request["op"], "body": True} if is_long else request)
        if is_long:
            try:
                await self.send(stream, encoded)
            except BaseException:
                stream.drop()
                raise
        return stream

    async def send(self, stream: HostStream, data: bytes) -> None:
        """Send all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self._send_some(stream, rest) :]

    async def _send_some(self, stream: HostStream, data: memoryview) -> int:
        return await self._alive(
            stream,
            lambda: stream.send(data, silence_s=self.bounds.silence_s),
            stall_s=self.bounds.operation_s,
        )

    async def receive(self, stream: HostStream, *, stall_s: float | None) -> bytes | None:
        """Return the next bytes, None at the end. `stall_s` None waits for as long as the agent lives."""
        return await self._alive(
            stream, lambda: stream.receive(silence_s=self.bounds.silence_s), stall_s=stall_s
        )

    async def result_of(self, stream: HostStream) -> Fields:
        """Return the result, with the body that may precede it."""
        body = bytearray()
        while (data := await self.receive(stream, stall_s=self.bounds.operation_s)) is not None:
            body += data
            if len(body) > RESULT_BODY_BYTES_MAX:
                raise SandfleetError("the guest's answer is too long")
        result = stream.result or {}
        if result.get("body") is not True:
            return Fields(result)
        try:
            return Fields(decode_json(bytes(body)))
        except MalformedMessage as error:
            raise SandfleetError(f"the guest's answer makes no sense: {error}") from error

    async def _alive(
        self, stream: HostStream, wait: Callable[[], Awaitable[T]], *, stall_s: float | None
    ) -> T:
        """Wait, asking the agent whether it lives whenever nothing comes for a while."""
        silent_s = 0.0
        while True:
            try:
                return await wait()
            except TimeoutError as error:
                silent_s += self.bounds.silence_s
                if stall_s is not None and silent_s >= stall_s:
                    raise GuestUnresponsive(f"no progress for {silent_s:.0f} s") from error
            await stream.connection.ping(timeout_s=self.bounds.answer_s)
