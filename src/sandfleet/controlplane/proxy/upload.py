"""The body of an upload: streamed, with its beginning kept so that an early failure can be repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.types import Receive

from sandfleet.controlplane.http.body import body_pieces
from sandfleet.model.errors import SandfleetError

KEPT_BYTES_MAX = 1024 * 1024


class Upload:
    """Reads the client's body once and gives it out again as long as it was all kept."""

    def __init__(self, receive: Receive, *, bytes_max: int) -> None:
        self._source = body_pieces(receive, bytes_max=bytes_max)
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
        except SandfleetError as error:
            self.failure = error
            raise

    def _keep(self, piece: bytes) -> None:
        if self._is_overflown:
            return
        self._kept_bytes += len(piece)
        if self._kept_bytes > KEPT_BYTES_MAX:
            self._is_overflown = True
            self._kept.clear()
        else:
            self._kept.append(piece)
