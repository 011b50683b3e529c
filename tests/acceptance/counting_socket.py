"""Clients that count on one WebSocket: a number goes into the sandbox and comes back before the next goes.

The socket is opened once, to a session or to a port of the guest. What is sent while the sandbox moves must
arrive, once and in order, and so must its echo, without the client's help.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import create_connection
from threading import Event

from tests.acceptance.live_fleet import LiveFleet
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from sandfleet_sdk import Client

_STDIN, _STDOUT, _END_OF_INPUT, _EXIT = 0, 1, 5, 3
_ANSWERS_WITHIN_S = 120.0
_PAUSE_S = 0.02
_OPENS_WITHIN_S = 60.0
ECHO_PORT = 3001
ECHO_APP = """
import base64, hashlib, socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        head = b""
        while b"\\r\\n\\r\\n" not in head:
            head += self.request.recv(4096)
        lines = {line.split(b":")[0].lower(): line.split(b":", 1)[1].strip()
                 for line in head.split(b"\\r\\n")[1:] if b":" in line}
        key = lines[b"sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\n"
                         b"Connection: Upgrade\\r\\n"
                         b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
        while True:
            first, second = self.rfile.read(2)
            if first & 15 == 8:
                self.wfile.write(bytes([0x88, 0]))
                return
            length, mask = second & 127, self.rfile.read(4)
            data = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(length)))
            self.wfile.write(bytes([first, len(data)]) + data)
socketserver.ThreadingTCPServer(("0.0.0.0", 3001), Echo).serve_forever()
"""


@dataclass(slots=True)
class Counting:
    """How far it has come; `heard` is all that the program has said."""

    reached: int = 0
    heard: bytearray = field(default_factory=bytearray)
    is_over: Event = field(default_factory=Event)
    counted: Future[None] = field(default_factory=Future)
    longest_s: float = 0.0
    """The longest time that a number was under way."""

    @property
    def expected(self) -> bytes:
        """All that the program must have said by now."""
        return b"".join(b"%d\n" % number for number in range(1, self.reached + 1))


@contextmanager
def counting(fleet: LiveFleet, client: Client, sandbox_id: str) -> Iterator[Counting]:
    """Count beside the body; afterwards every number has been there and back once, in order."""
    session = client.sessions.start(sandbox_id, "cat").id
    url = fleet.url.replace("http", "ws", 1) + f"/api/sandboxes/{sandbox_id}/exec/{session}?offset=0"
    with (
        connect(url, additional_headers={"X-API-Key": fleet.api_key}, open_timeout=60) as socket,
        _beside(_count, socket) as state,
    ):
        yield state
        state.is_over.set()
        state.counted.result()
        assert (_exit_code(socket), bytes(state.heard)) == (0, state.expected)


@contextmanager
def counting_on_preview(fleet: LiveFleet, client: Client, sandbox_id: str) -> Iterator[Counting]:
    """Count beside the body on a socket of an application in the guest, which echoes."""
    client.files.write(sandbox_id, "/tmp/echo.py", ECHO_APP)
    client.commands.run(sandbox_id, "(setsid python3 /tmp/echo.py >/dev/null 2>&1 &)")
    with _opened(fleet, sandbox_id) as socket, _beside(_count_echoes, socket) as state:
        yield state


def _opened(fleet: LiveFleet, sandbox_id: str) -> ClientConnection:
    """Return a socket as soon as the application listens."""
    url = fleet.url.replace("http://127.0.0.1", f"ws://{sandbox_id}-p{ECHO_PORT}.localhost")
    port = int(fleet.url.rpartition(":")[2])
    deadline_s = time.monotonic() + _OPENS_WITHIN_S
    while True:
        try:
            return connect(url, sock=create_connection(("127.0.0.1", port)), open_timeout=60)
        except InvalidStatus as refused:
            if refused.response.status_code != 502 or time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)


@contextmanager
def _beside(
    count: Callable[[ClientConnection, Counting], None], socket: ClientConnection
) -> Iterator[Counting]:
    state = Counting()
    with ThreadPoolExecutor(1) as pool:
        state.counted = pool.submit(count, socket, state)
        try:
            yield state
        finally:
            state.is_over.set()
        state.counted.result()


def _count_echoes(socket: ClientConnection, state: Counting) -> None:
    while not state.is_over.is_set():
        state.reached += 1
        began_s = time.monotonic()
        socket.send(str(state.reached))
        assert socket.recv(timeout=_ANSWERS_WITHIN_S) == str(state.reached)
        state.longest_s = max(state.longest_s, time.monotonic() - began_s)
        time.sleep(_PAUSE_S)


def _count(socket: ClientConnection, state: Counting) -> None:
    while not state.is_over.is_set():
        state.reached += 1
        began_s = time.monotonic()
        number = b"%d\n" % state.reached
        socket.send(bytes([_STDIN]) + number)
        length = len(state.heard) + len(number)
        while len(state.heard) < length:
            message = socket.recv(timeout=_ANSWERS_WITHIN_S)
            assert isinstance(message, bytes)
            if message[0] == _STDOUT:
                state.heard += message[1:]
        state.longest_s = max(state.longest_s, time.monotonic() - began_s)
        time.sleep(_PAUSE_S)


def _exit_code(socket: ClientConnection) -> int:
    """End the program's input; whatever else it says is too much and is found as such."""
    socket.send(bytes([_END_OF_INPUT]))
    while True:
        message = socket.recv(timeout=_ANSWERS_WITHIN_S)
        assert isinstance(message, bytes)
        assert message[0] != _STDOUT, message
        if message[0] == _EXIT:
            return int.from_bytes(message[1:], "big", signed=True)
