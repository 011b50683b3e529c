"""One client of a session or terminal, over WebSockets: its output goes on where a connection broke.

`Progress` knows what messages mean and how far the output has come; the blocking and
the awaiting attachment only differ in who waits. Input that was under way when a
connection to the server broke may be lost: whoever cares sends it again.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection as BlockingConnection
from websockets.sync.client import connect as connect_blocking

from sandfleet_sdk.calls import path_of
from sandfleet_sdk.errors import SandfleetError, Unreachable, api_error
from sandfleet_sdk.transport import Endpoint

STDOUT, STDERR = 1, 2
_EXIT = 3
_NORMAL, _UNKNOWN, _GONE, _NOT_KEPT = 1000, 4404, 4410, 4416
_ATTEMPTS_MAX = 40
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.1, 2.0
_OPEN_S = 20.0
_RETRIED = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes of one stream; a terminal has only stream 1."""

    stream: int
    data: bytes


@dataclass(slots=True)
class Progress:
    """How far an attachment has come. No I/O."""

    sandbox_id: str
    session_id: str
    is_terminal: bool
    offset: int | None = 0
    """Where to begin; None begins with what the server chooses to replay."""
    exit_code: int | None = None
    has_ended: bool = False
    failures: int = field(default=0)

    @property
    def path(self) -> str:
        """Path and query of the next connection."""
        kind = "pty" if self.is_terminal else "exec"
        path = path_of("sandboxes", self.sandbox_id, kind, self.session_id)
        return path if self.offset is None else f"{path}?{urlencode({'offset': self.offset})}"

    def begin(self, offset: str | None) -> None:
        """Note that a connection stands, and where its output begins."""
        if self.offset is None and offset is not None:
            self.offset = int(offset)

    def take(self, message: bytes | str) -> Output | None:
        """Return the output in a message, None for all others."""
        if isinstance(message, str) or not message:
            return None
        self.failures = 0
        stream, data = (STDOUT, message) if self.is_terminal else (message[0], message[1:])
        if stream in (STDOUT, STDERR):
            self.offset = (self.offset or 0) + len(data)
            return Output(stream, data)
        if stream == _EXIT:
            self.exit_code = int.from_bytes(data, "big", signed=True)
            self.has_ended = True
        return None

    def closed(self, code: int | None) -> float:
        """Return how long to wait before the next connection; raise what ends the attachment."""
        if code == _NORMAL or self.has_ended:
            self.has_ended = True
            return 0.0
        if code == _UNKNOWN:
            raise api_error(404, {"error": "the session is not known any more", "code": "not_found"})
        if code == _GONE:
            raise api_error(410, {"error": "the sandbox has ended", "code": "gone"})
        if code == _NOT_KEPT:
            raise SandfleetError("output was lost: it came faster than it could be read again")
        return self.failed(Unreachable(f"the connection was closed with {code}"))

    def failed(self, error: SandfleetError) -> float:
        """Return how long to wait after a failed attempt; raise `error` when there were too many."""
        self.failures += 1
        if self.failures >= _ATTEMPTS_MAX:
            raise error
        return min(_PAUSE_MAX_S, _PAUSE_FIRST_S * 2.0**self.failures)

    def stdin(self, data: bytes) -> bytes:
        """Return the message that carries input."""
        return data if self.is_terminal else b"\x00" + data

    def refused(self, error: InvalidStatus) -> float:
        """Return how long to wait after a refusal; raise one that will not change."""
        body = error.response.body or b""
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = {}
        problem = api_error(error.response.status_code, parsed if isinstance(parsed, dict) else {})
        if error.response.status_code not in _RETRIED:
            raise problem from None
        return self.failed(problem)


class Attachment:
    """A blocking client: iterate for output; `send` from any thread."""

    def __init__(self, endpoint: Endpoint, progress: Progress) -> None:
        self._endpoint = endpoint
        self._progress = progress
        self._connection: BlockingConnection | None = None
        self._connected = threading.Event()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def exit_code(self) -> int | None:
        """How the session ended; None for one that runs, and for terminals."""
        return self._progress.exit_code

    def __iter__(self) -> Iterator[Output]:
        progress = self._progress
        while not progress.has_ended:
            try:
                url, headers = self._endpoint.socket(progress.path)
                with connect_blocking(
                    url, additional_headers=headers, open_timeout=_OPEN_S, max_size=2**20, compression=None
                ) as connection:
                    self._begin(connection)
                    yield from self._received(connection)
                    pause_s = progress.closed(connection.close_code)
            except InvalidStatus as error:
                pause_s = progress.refused(error)
            except (OSError, InvalidHandshake, TimeoutError) as error:
                pause_s = progress.failed(Unreachable(f"no connection: {error}"))
            self._connected.clear()
            if not progress.has_ended:
                time.sleep(pause_s)

    def send(self, data: bytes) -> None:
        """Give bytes to the process; waits while there is no connection."""
        self._send(self._progress.stdin(data))

    def end_input(self) -> None:
        """Say that no more input comes; a terminal has no such end."""
        if not self._progress.is_terminal:
            self._send(b"\x05")

    def close(self) -> None:
        """Leave; the session goes on."""
        self._progress.has_ended = True
        self._connected.set()
        if self._connection is not None:
            self._connection.close()

    def _begin(self, connection: BlockingConnection) -> None:
        self._connection = connection
        response = connection.response
        self._progress.begin(None if response is None else response.headers.get("X-Exec-Offset"))
        self._connected.set()

    def _received(self, connection: BlockingConnection) -> Iterator[Output]:
        try:
            for message in connection:
                output = self._progress.take(message)
                if output is not None:
                    yield output
        except ConnectionClosed:
            return

    def _send(self, message: bytes) -> None:
        while not self._progress.has_ended:
            self._connected.wait()
            connection = self._connection
            try:
                if connection is not None:
                    connection.send(message)
                return
            except ConnectionClosed:
                time.sleep(_PAUSE_FIRST_S)


class AsyncAttachment:
    """An awaiting client: iterate for output; `send` from any task."""

    def __init__(self, endpoint: Endpoint, progress: Progress) -> None:
        self._endpoint = endpoint
        self._progress = progress
        self._connection: ClientConnection | None = None
        self._connected = asyncio.Event()

    async def __aenter__(self) -> AsyncAttachment:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def exit_code(self) -> int | None:
        """How the session ended; None for one that runs, and for terminals."""
        return self._progress.exit_code

    async def __aiter__(self) -> AsyncIterator[Output]:
        progress = self._progress
        while not progress.has_ended:
            try:
                await self._open()
                async for output in self._receive():
                    yield output
                pause_s = progress.closed(None if self._connection is None else self._connection.close_code)
            except InvalidStatus as error:
                pause_s = progress.refused(error)
            except (OSError, InvalidHandshake, TimeoutError) as error:
                pause_s = progress.failed(Unreachable(f"no connection: {error}"))
            self._connected.clear()
            if not progress.has_ended:
                await asyncio.sleep(pause_s)

    async def send(self, data: bytes) -> None:
        """Give bytes to the process; waits while there is no connection."""
        await self._send(self._progress.stdin(data))

    async def end_input(self) -> None:
        """Say that no more input comes; a terminal has no such end."""
        if not self._progress.is_terminal:
            await self._send(b"\x05")

    async def close(self) -> None:
        """Leave; the session goes on."""
        self._progress.has_ended = True
        self._connected.set()
        if self._connection is not None:
            await self._connection.close()

    async def _open(self) -> None:
        url, headers = self._endpoint.socket(self._progress.path)
        self._connection = await connect(
            url, additional_headers=headers, open_timeout=_OPEN_S, max_size=2**20, compression=None
        )
        response = self._connection.response
        self._progress.begin(None if response is None else response.headers.get("X-Exec-Offset"))
        self._connected.set()

    async def _receive(self) -> AsyncIterator[Output]:
        if self._connection is None:
            return
        try:
            async for message in self._connection:
                output = self._progress.take(message)
                if output is not None:
                    yield output
        except ConnectionClosed:
            return

    async def _send(self, message: bytes) -> None:
        while not self._progress.has_ended:
            await self._connected.wait()
            connection = self._connection
            try:
                if connection is not None:
                    await connection.send(message)
                return
            except ConnectionClosed:
                await asyncio.sleep(_PAUSE_FIRST_S)
