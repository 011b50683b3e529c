"""TCP connections from this guest to its own ports, kept by id as execs are, their bytes by offset.

Both ends of such a connection are in the guest. So it lasts while the guest is moved, saved
or served by another process, and whoever speaks through it goes on where they were.
One that nobody has read for `UNREAD_S` is hung up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

from sandfleet.agent.execution import ExecState, Execution, Hooks, wall_clock
from sandfleet.agent.loop import EventLoop
from sandfleet.agent.output_log import Budget, OutputLog
from sandfleet.agent.stdin_pipe import StdinPipe
from sandfleet.wire.agent_messages import Code, OperationFailed

OPEN_MAX = 256
ENDED_MAX = 64
"""So many that have ended are still known: their last reader may not have been told."""
UNREAD_S = 60.0
CONNECT_S = 5.0
KEPT_BYTES_MAX = 1024 * 1024
"""Of what each has received: more than the host lets stand unacknowledged."""
_IN_PROGRESS = frozenset({0, errno.EINPROGRESS})


class Connections:
    """The connections of this guest, kept across sessions."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._by_id: dict[str, Execution] = {}
        self._ended: dict[str, Execution] = {}

    def get(self, connection_id: str) -> Execution | None:
        """Return the connection, if it is known."""
        return self._by_id.get(connection_id)

    def open(self, connection_id: str, address: tuple[str, int]) -> Execution:
        """Begin to connect, or return the one that has this id; `when_started` tells how it came out."""
        known = self._by_id.get(connection_id)
        if known is not None:
            return known
        if len(self._by_id) - len(self._ended) >= OPEN_MAX:
            raise OperationFailed(Code.BUSY, f"{OPEN_MAX} connections are open already")
        state = ExecState(connection_id, [f"port {address[1]}"], wall_clock(), is_session=True)
        connection = Execution(
            self._loop, state, OutputLog(Budget()), Hooks(wall_clock, lambda: KEPT_BYTES_MAX, self._on_end)
        )
        self._by_id[connection_id] = connection
        self._connect(connection, address)
        return connection

    def _connect(self, connection: Execution, address: tuple[str, int]) -> None:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = made.connect_ex(address)

        def settle(_events: int = 0, *, number: int | None = None) -> None:
            late.cancel()
            self._loop.forget(made.fileno())
            if number is None:
                number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                made.close()
                self._give_up(connection, number, port=address[1])
            else:
                self._serve(connection, made.detach())
            connection.on_started()

        late = self._loop.call_later(CONNECT_S, lambda: settle(number=errno.ETIMEDOUT))
        if begun in _IN_PROGRESS:
            self._loop.watch(made.fileno(), select.EPOLLOUT, settle)
        else:
            settle(number=begun)

    def _serve(self, connection: Execution, fd: int) -> None:
        connection.take_connection(fd, StdinPipe(self._loop, os.dup(fd), close=hang_up))
        connection.readers.hold(0, UNREAD_S)
        self._look_after(connection)

    def _give_up(self, connection: Execution, number: int, *, port: int) -> None:
        if number == errno.ECONNREFUSED:
            failure = OperationFailed(Code.REFUSED, f"nothing listens on port {port}")
        else:
            failure = OperationFailed(Code.REFUSED, f"port {port} takes no connection: {os.strerror(number)}")
        connection.failure = failure
        connection.abandon()
        self._by_id.pop(connection.state.exec_id, None)

    def _look_after(self, connection: Execution) -> None:
        """Hang up when nobody reads, or is expected back; looked at now and then."""

        def look() -> None:
            if not connection.state.running:
                return
            if connection.readers.any:
                self._look_after(connection)
            else:
                connection.stdin.close()

        self._loop.call_later(UNREAD_S, look)

    def _on_end(self, connection: Execution) -> None:
        """Keep it for a reader who has not come to its end; not for ever, and not more than `ENDED_MAX`."""
        self._ended[connection.state.exec_id] = connection
        self._loop.call_later(UNREAD_S, lambda: self._forget(connection))
        if len(self._ended) > ENDED_MAX:
            unread = (one for one in self._ended.values() if not one.readers.any)
            self._forget(next(unread, next(iter(self._ended.values()))))

    def _forget(self, connection: Execution) -> None:
        if self._ended.pop(connection.state.exec_id, None) is not None:
            self._by_id.pop(connection.state.exec_id, None)
            connection.log.trim(0)


def hang_up(fd: int) -> None:
    """Close a connection in both directions, whoever else has a descriptor of it."""
    with socket.socket(fileno=fd) as connection, contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
