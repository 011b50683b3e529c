"""TCP ports of this machine: which are free, and which to take."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


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
    """Return a port that nobody listens on, chosen by the kernel."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def choose_port(preferred: int, *, host: str = LOOPBACK) -> int:
    """Return the preferred port when it is free, else another one."""
    return preferred if preferred and is_free(preferred, host=host) else free_port(host=host)
