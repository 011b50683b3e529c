"""A client that counts on one WebSocket: a number goes into the sandbox and comes back before the next goes.

The socket is opened once. What is sent while the sandbox moves must arrive, once and in order, and so must
its echo, without the client's help.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

from tests.acceptance.live_fleet import LiveFleet
from websockets.sync.client import ClientConnection, connect

from sandfleet_sdk import Client

_STDIN, _STDOUT, _END_OF_INPUT, _EXIT = 0, 1, 5, 3
_ANSWERS_WITHIN_S = 120.0
_PAUSE_S = 0.02


@dataclass(slots=True)
class Counting:
    """How far it has come; `heard` is all that the program has said."""

    reached: int = 0
    heard: bytearray = field(default_factory=bytearray)
    is_over: Event = field(default_factory=Event)
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
    state = Counting()
    with (
        connect(url, additional_headers={"X-API-Key": fleet.api_key}, open_timeout=60) as socket,
        ThreadPoolExecutor(1) as pool,
    ):
        counted = pool.submit(_count, socket, state)
        try:
            yield state
        finally:
            state.is_over.set()
        counted.result()
        assert (_exit_code(socket), bytes(state.heard)) == (0, state.expected)


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
