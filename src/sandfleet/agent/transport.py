"""Where the agent's bytes come from: the virtio port in a guest, a socket for an agent on the host.

Both look alike: bytes in through `on_bytes`, `on_gone` when the host went away,
`write` takes what it can. Descriptors are watched by edge: a port without a host
stays "hung up", and would keep a level-triggered loop spinning.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
from collections import deque
from collections.abc import Callable

from sandfleet.agent.loop import EventLoop

SOCKET_READ_BYTES = 64 * 1024
PORT_READ_BYTES = 4 * 1024
"""A virtio port gives no more at once."""
PORT_DOUBT_S = 0.5
BATCH_BYTES = 64 * 1024
BATCHES_PER_TURN_MAX = 16
PIECES_PER_WRITE_MAX = 16
_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Transport:
    """One descriptor and the bytes that wait to be written to it."""

    def __init__(
        self,
        loop: EventLoop,
        *,
        on_bytes: Callable[[bytes], None],
        on_gone: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_bytes = on_bytes
        self._on_gone = on_gone
        self._on_room = on_room
        self._fd = -1
        self._is_port = False
        self._doubting = False
        self._read_bytes = SOCKET_READ_BYTES
        self._waiting: deque[memoryview] = deque()
        self.waiting_bytes = 0

    def attach(self, fd: int, *, is_port: bool = False) -> None:
        """Serve a connected socket, or a virtio port, whose hosts come and go."""
        self._fd = fd
        self._is_port = is_port
        self._read_bytes = PORT_READ_BYTES if is_port else SOCKET_READ_BYTES
        os.set_blocking(fd, False)
        self._loop.watch(fd, _EDGES, self._on_events)

    def detach(self) -> None:
        """Stop serving and close the descriptor."""
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
        self.drop_waiting()

    def drop_waiting(self) -> None:
        """Forget what is not written yet."""
        self._waiting.clear()
        self.waiting_bytes = 0

    def write(self, pieces: list[bytes]) -> None:
        """Write, keeping what the descriptor does not take now."""
        for piece in pieces:
            self._waiting.append(memoryview(piece))
            self.waiting_bytes += len(piece)
        self._flush()

    def _flush(self) -> None:
        """Write until all is written or the descriptor says "would block": only that arms the next edge."""
        while self._waiting and self._fd >= 0:
            try:
                written = os.writev(self._fd, list(itertools.islice(self._waiting, PIECES_PER_WRITE_MAX)))
            except BlockingIOError:
                return
            except OSError:
                self.drop_waiting()
                return
            self._forget_written(written)

    def _forget_written(self, count: int) -> None:
        self.waiting_bytes -= count
        while count:
            first = self._waiting.popleft()
            if count < len(first):
                self._waiting.appendleft(first[count:])
                return
            count -= len(first)

    def _on_events(self, events: int) -> None:
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLRDHUP | select.EPOLLERR):
            self._read()
        if events & select.EPOLLOUT and self._fd >= 0:
            self._flush()
            self._on_room()

    def _read(self) -> None:
        for _ in range(BATCHES_PER_TURN_MAX):
            if self._fd < 0:
                return
            data, is_more = self._gather()
            if data:
                self._on_bytes(data)
            if is_more is None:
                self._on_end()
            if not is_more:
                return
        self._loop.call_soon(self._read)

    def _on_end(self) -> None:
        """A socket that has ended is gone. A port says so too while its next host is connecting:

        that host's first bytes may have been read already, so it is asked again after a while.
        """
        if not self._is_port:
            self._on_gone()
        elif not self._doubting:
            self._doubting = True
            self._loop.call_later(PORT_DOUBT_S, self._ask_again)

    def _ask_again(self) -> None:
        self._doubting = False
        data, is_more = self._gather()
        if data:
            self._on_bytes(data)
        if data or is_more:
            self._loop.call_soon(self._read)
        elif is_more is None:
            self._on_gone()

    def _gather(self) -> tuple[bytes, bool | None]:
        """Read a batch; return it and whether there may be more (None: the host is gone)."""
        pieces: list[bytes] = []
        size = 0
        while size < BATCH_BYTES:
            try:
                data = os.read(self._fd, self._read_bytes)
            except BlockingIOError:
                return b"".join(pieces), False
            except OSError:
                data = b""
            if not data:
                return b"".join(pieces), None
            pieces.append(data)
            size += len(data)
        return b"".join(pieces), True


class SocketListener:
    """Gives one connection at a time to a transport, as QEMU's character devices do."""

    def __init__(self, loop: EventLoop, path: str, transport: Transport) -> None:
        self._loop = loop
        self._transport = transport
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(8)
        self._socket.setblocking(False)
        self.next()

    def next(self) -> None:
        """Wait for the next connection, after closing the present one."""
        self._transport.detach()
        self._loop.watch(self._socket.fileno(), select.EPOLLIN, self._accept)

    def _accept(self, _events: int) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        self._loop.forget(self._socket.fileno())
        self._transport.attach(connection.detach())
