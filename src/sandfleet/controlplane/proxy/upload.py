"""The body of an upload: streamed, with its beginning kept so that an early failure can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Receive

from sandfleet.controlplane.http.body import body_pieces
from sandfleet.model.errors import SandfleetError

KEPT_BYTES_MAX = 1024 * 1024


class Upload:
    """Reads the client's body once and gives it out again as long as it was all kept."""

    def __init__(self, receive: Receive, *, bytes_max: int) -> None:
        self._receive = receive
        self._source = body_pieces(receive, bytes_max=bytes_max)
        self._ended = asyncio.Event()
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._is_overflown = False
        self.failure: SandfleetError | None = None
        """Why the client's side broke: it went away, or its body is too large."""

    @property
    def may_repeat(self) -> bool:
        """Whether everything that was read can be sent again."""
        return not self._is_overflown and self.failure is None

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body from its beginning."""
        for piece in tuple(self._kept):
            yield piece
        try:
            async for piece in self._source:
                self._keep(piece)
                yield piece
            self._ended.set()
        except SandfleetError as error:
            self.failure = error
            raise

    def nothing_comes(self) -> None:
        """Note that the request has no body, so nobody will read it to its end."""
        self._ended.set()

    async def client_left(self) -> None:
        """Return when the client has closed its connection; while it sends, that shows at the reader."""
        await self._ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _keep(self, piece: bytes) -> None:
        if self._is_overflown:
            return
        self._kept_bytes += len(piece)
        if self._kept_bytes > KEPT_BYTES_MAX:
            self._is_overflown = True
            self._kept.clear()
        else:
            self._kept.append(piece)
