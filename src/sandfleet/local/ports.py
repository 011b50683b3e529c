"""TCP ports of this machine: which are free, which to take, and how a choice is told to all others.

Between the choice of a port and the start of what listens there, another fleet that comes up could choose it
too. So whoever chooses holds a Unix socket of the port's name in the abstract namespace. That reaches as far
as the ports do, through the network namespace and to all users, and the kernel takes it from one that ends.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection
from types import TracebackType

from sandfleet.local.service_process import PortTaken

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
    """Return a port that nobody listens on or holds, and that no connection takes meanwhile."""
    dice = random.SystemRandom()
    for _ in range(_TRIES_MAX):
        port = dice.randint(_FIRST, _LAST)
        name = _name_taken(port)
        if name is not None:
            name.close()
            if is_free(port, host=host):
                return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class HeldPorts:
    """Ports of one fleet; each is held from its choice until it is let go, or this process ends."""

    def __init__(self, *, running: Collection[int] = ()) -> None:
        """Begin with none. `running`: where services of this fleet listen already."""
        self._running = frozenset(running)
        self._names: dict[int, socket.socket] = {}

    def __enter__(self) -> HeldPorts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for port in list(self._names):
            self.let_go(port)

    def choose(self, preferred: int = 0, *, host: str = LOOPBACK) -> int:
        """Return the preferred port when it is free or the fleet's own, else another one; PortTaken."""
        # What a service of ours has is free for another: the one ends before the other begins.
        if preferred in self._running:
            self._hold(preferred)
            return preferred
        if preferred and self._takes(preferred, host):
            return preferred
        for _ in range(_TRIES_MAX):
            port = free_port(host=host)
            if self._takes(port, host):
                return port
        raise PortTaken(f"no free port was found in {_TRIES_MAX} attempts")

    def let_go(self, port: int) -> None:
        """Leave the port to whoever wants it."""
        name = self._names.pop(port, None)
        if name is not None:
            name.close()

    def _takes(self, port: int, host: str) -> bool:
        """Hold it first and look then, so that of two who want it one sees that it is free."""
        if not self._hold(port):
            return False
        if is_free(port, host=host):
            return True
        self.let_go(port)
        return False

    def _hold(self, port: int) -> bool:
        name = _name_taken(port)
        if name is None:
            return False
        self._names[port] = name
        return True


def _name_taken(port: int) -> socket.socket | None:
    """Return the socket by which a port is held, None when somebody holds it."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0sandfleet-port-{port}")
    except OSError as error:
        name.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return name
