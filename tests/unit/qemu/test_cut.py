"""A connection of a process is cut from outside, and only those to one place."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

from sandfleet.adapters.qemu.cut import cut_connections

HOST = "127.0.0.1"


def test_all_connections_to_one_place_are_cut_and_no_others() -> None:
    with ExitStack() as held:
        there, elsewhere = (held.enter_context(socket.create_server((HOST, 0))) for _ in range(2))
        port = there.getsockname()[1]
        cut = [held.enter_context(socket.create_connection((HOST, port), timeout=10)) for _ in range(2)]
        kept = held.enter_context(socket.create_connection(elsewhere.getsockname(), timeout=10))
        other_side = held.enter_context(elsewhere.accept()[0])

        assert cut_connections(os.getpid(), host=HOST, port=port) == 2

        assert [one.recv(1) for one in cut] == [b"", b""]
        other_side.sendall(b"on")
        assert kept.recv(2) == b"on"
        assert cut_connections(os.getpid(), host=HOST, port=port + 1) == 0
