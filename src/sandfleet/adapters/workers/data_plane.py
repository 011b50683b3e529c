"""The data plane's transport: requests are streamed to the worker and answers back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from sandfleet.adapters.workers.connections import FleetTokens, timeouts
from sandfleet.adapters.workers.sockets import opened_socket
from sandfleet.model.errors import TooLarge, WorkerUnreachable
from sandfleet.model.ids import WorkerId
from sandfleet.ports.data_plane import DataPlaneAnswer, DataPlaneRequest, WorkerSocket

PIECE_BYTES = 256 * 1024


class AiohttpAnswer:
    """An answer of a worker (port: `ports.data_plane.DataPlaneAnswer`)."""

    def __init__(self, worker_id: WorkerId, response: aiohttp.ClientResponse) -> None:
        self._worker_id = worker_id
        self._response = response

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""
        return {name.lower(): value for name, value in self._response.headers.items()}

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""
        try:
            async for piece in self._response.content.iter_chunked(PIECE_BYTES):
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(self._worker_id, error) from error

    async def read(self, *, bytes_max: int) -> bytes:
        """Return the whole body, bounded."""
        length = self._response.content_length
        if length is not None and length > bytes_max:
            raise TooLarge(f"the worker's answer has {length} bytes, more than {bytes_max}")
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > bytes_max:
                raise TooLarge(f"the worker's answer has more than {bytes_max} bytes")
        return bytes(body)


class AiohttpDataPlane:
    """Data-plane calls by aiohttp (port: `ports.data_plane.DataPlane`)."""

    def __init__(self, session: aiohttp.ClientSession, tokens: FleetTokens) -> None:
        self._session = session
        self._tokens = tokens

    @asynccontextmanager
    async def connect(
        self, worker_id: WorkerId, url: str, target: str, headers: Mapping[str, str]
    ) -> AsyncIterator[WorkerSocket]:
        """Open a WebSocket; leaving closes it."""
        given = {**headers, "Authorization": f"Bearer {self._tokens(worker_id)}"}
        async with opened_socket(self._session, worker_id, url.rstrip("/") + target, given) as socket:
            yield socket

    @asynccontextmanager
    async def send(
        self, worker_id: WorkerId, url: str, request: DataPlaneRequest
    ) -> AsyncIterator[DataPlaneAnswer]:
        """Send and yield the answer; leaving closes a connection that still has bytes to come."""
        headers = {**request.headers, "Authorization": f"Bearer {self._tokens(worker_id)}"}
        body = request.body
        if isinstance(body, bytes) and len(body) > PIECE_BYTES:
            # A large body in one write would hold up every other request.
            headers["Content-Length"] = str(len(body))
            body = _in_pieces(body)
        try:
            response = await self._session.request(
                request.method,
                URL(url.rstrip("/") + request.target, encoded=True),
                headers=headers,
                data=body,
                timeout=timeouts(silence_max_s=request.silence_max_s),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(worker_id, error) from error
        try:
            yield AiohttpAnswer(worker_id, response)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


def _unreachable(worker_id: WorkerId, error: BaseException) -> WorkerUnreachable:
    return WorkerUnreachable(f"worker {worker_id} did not answer: {type(error).__name__}")
