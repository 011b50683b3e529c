"""WebSockets to workers (port: `ports.data_plane.WorkerSocket`).

Facts: of a refused upgrade aiohttp gives only status and headers, so the worker puts
its error into a header as well. Nothing is read from the network while nobody calls
`receive`; a heartbeat that finds no answer then breaks the connection, which its user
must be able to bear anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from yarl import URL

from sandfleet.model.errors import SandfleetError, WorkerUnreachable
from sandfleet.model.ids import WorkerId
from sandfleet.wire.errors import error_from
from sandfleet.wire.session_frames import PROBLEM_HEADER

HEARTBEAT_S = 30.0
UPGRADE_S = 30.0
CLOSE_S = 2.0
MESSAGE_BYTES_MAX = 1024 * 1024


class AiohttpWorkerSocket:
    """One open socket."""

    def __init__(self, worker_id: WorkerId, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._worker_id = worker_id
        self._socket = socket

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the upgrade's answer, with lower-case names."""
        answer = self._socket._response  # aiohttp shows the answer's headers nowhere else
        return {name.lower(): value for name, value in answer.headers.items()}

    async def receive(self) -> bytes | None:
        """Return the next binary message; None at the end."""
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                data: bytes = message.data
                return data
            if message.type is not aiohttp.WSMsgType.TEXT:
                return None

    async def send(self, data: bytes) -> None:
        """Send one message."""
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _unreachable(self._worker_id, error) from error


@asynccontextmanager
async def opened_socket(
    session: aiohttp.ClientSession, worker_id: WorkerId, url: str, headers: Mapping[str, str]
) -> AsyncIterator[AiohttpWorkerSocket]:
    """Open a WebSocket; leaving closes it."""
    try:
        async with asyncio.timeout(UPGRADE_S):
            socket = await session.ws_connect(
                URL(url, encoded=True),
                headers=headers,
                heartbeat=HEARTBEAT_S,
                max_msg_size=MESSAGE_BYTES_MAX,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
            )
    except aiohttp.WSServerHandshakeError as error:
        raise _refusal(error) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _unreachable(worker_id, error) from error
    try:
        yield AiohttpWorkerSocket(worker_id, socket)
    finally:
        await socket.close()


def _refusal(error: aiohttp.WSServerHandshakeError) -> SandfleetError:
    raw = "" if error.headers is None else error.headers.get(PROBLEM_HEADER, "")
    try:
        body = msgspec.json.decode(raw, type=dict[str, object])
    except msgspec.DecodeError:
        body = {}
    return error_from(error.status, body)


def _unreachable(worker_id: WorkerId, error: BaseException) -> WorkerUnreachable:
    return WorkerUnreachable(f"worker {worker_id} did not answer: {type(error).__name__}")
