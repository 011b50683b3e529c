"""The worker's listener inside a machine's namespace: no other guest is in reach of it."""

from __future__ import annotations

import socket

from sandfleet.adapters.network import plan
from sandfleet.adapters.network.namespace_thread import within

BACKLOG = 32


async def listen_for_metadata(machine_id: str) -> socket.socket:
    """Return a listening socket at the address to which the namespace leads metadata requests."""
    return await within(plan.NAMESPACE_PREFIX + machine_id, _listening_socket, take_back=_close)


def _listening_socket() -> socket.socket:
    made = socket.create_server((plan.GATEWAY_ADDRESS, plan.METADATA_PORT), backlog=BACKLOG)
    made.setblocking(False)
    return made


def _close(made: socket.socket) -> None:
    made.close()
