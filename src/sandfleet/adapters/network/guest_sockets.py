"""TCP between the worker and a guest, made inside the machine's namespace: no other guest is in reach."""

from __future__ import annotations

import asyncio
import errno
import socket

from sandfleet.adapters.network import plan
from sandfleet.adapters.network.namespace_thread import within
from sandfleet.model.errors import GuestUnresponsive, PortClosed

CONNECT_TIMEOUT_S = 5.0
BACKLOG = 32


async def connect_to_guest(machine_id: str, port: int) -> socket.socket:
    """Return a connected socket; PortClosed when the guest refuses."""
    connection = await within(plan.NAMESPACE_PREFIX + machine_id, _fresh_socket, take_back=_close)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(connection, (plan.GUEST_ADDRESS, port))
    except ConnectionRefusedError:
        connection.close()
        raise PortClosed(f"nothing listens on port {port}") from None
    except OSError as error:  # a timeout is one as well
        connection.close()
        raise GuestUnresponsive(f"the guest does not answer on port {port}: {_reason(error)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


async def listen_for_metadata(machine_id: str) -> socket.socket:
    """Return a listening socket at the address to which the namespace leads metadata requests."""
    return await within(plan.NAMESPACE_PREFIX + machine_id, _listening_socket, take_back=_close)


def _fresh_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _listening_socket() -> socket.socket:
    made = socket.create_server((plan.GATEWAY_ADDRESS, plan.METADATA_PORT), backlog=BACKLOG)
    made.setblocking(False)
    return made


def _close(made: socket.socket) -> None:
    made.close()


def _reason(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "no answer in time")
