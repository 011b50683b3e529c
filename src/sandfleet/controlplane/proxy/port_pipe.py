"""The local end of a connection to a guest's port: one of two sockets.

What the guest says is queued here, and counts as received only when it has been taken: so a
client that takes nothing for an hour holds up its application, and neither a worker nor the
reading of what a worker says.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable

QUEUED_BYTES_MAX = 4 * 1024 * 1024
"""Above what a guest sends without hearing that it was taken, so this bound is never met by a sound one."""
PIECE_BYTES = 64 * 1024


class PortPipe:
    """Takes what a guest says (`session_carrier.Taker`), and yields what it is told."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        """`theirs` is for who speaks through it, and theirs to close."""
        self._ours.setblocking(False)
        self.theirs.setblocking(False)
        self._queue: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._is_ended = False
        self._is_deaf = False
        self.untaken_bytes = 0
        self.on_taken: Callable[[], None] = lambda: None

    async def send(self, data: bytes) -> None:
        """Queue what the guest says."""
        if self._is_deaf:
            return
        self._queue.append(data)
        self.untaken_bytes += len(data)
        self._changed.set()
        while self.untaken_bytes > QUEUED_BYTES_MAX and not self._is_deaf:
            self._changed.clear()
            await self._changed.wait()

    def end(self) -> None:
        """Note that the guest says no more."""
        self._is_ended = True
        self._changed.set()

    async def hand_on(self) -> None:
        """Hand on what is queued, at the pace at which it is taken, until all is and no more comes."""
        loop = asyncio.get_running_loop()
        while self._queue or not self._is_ended:
            if not self._queue:
                self._changed.clear()
                await self._changed.wait()
                continue
            data = self._queue.popleft()
            try:
                await loop.sock_sendall(self._ours, data)
            except OSError:  # nobody listens any more, and the reading end says so
                self._is_deaf = True
                self._queue.clear()
            self.untaken_bytes = 0 if self._is_deaf else self.untaken_bytes - len(data)
            self._changed.set()
            self.on_taken()

    async def told(self) -> AsyncIterator[bytes]:
        """Yield what the guest is to be told, until the other end is closed."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._ours, PIECE_BYTES)
            except OSError:
                return
            if not data:
                return
            yield data

    def close(self) -> None:
        """Close our end."""
        self._ours.close()
