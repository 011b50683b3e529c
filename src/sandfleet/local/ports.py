"""TCP ports of this machine: which are free, and which to take."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
_FIRST, _LAST = 20_000, 32_767
"""Below those from which the kernel takes one for each connection: between the choice and the start of
the server one of the upper ones may be gone."""
_TRIES_MAX = 200


def is_free(port: int, *, host: str = LOOPBACK) -> bool:
    """Say whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*, host: str = LOOPBACK) -> int:
    """Return a port that nobody listens on, and that no connection takes meanwhile."""
    dice = random.SystemRandom()
    for _ in range(_TRIES_MAX):
        port = dice.randint(_FIRST, _LAST)
        if is_free(port, host=host):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def choose_port(preferred: int, *, host: str = LOOPBACK) -> int:
    """Return the preferred port when it is free, else another one."""
    return preferred if preferred and is_free(preferred, host=host) else free_port(host=host)
