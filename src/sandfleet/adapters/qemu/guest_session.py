"""A session with the agent of a machine that runs, whether or not it answers now."""

from __future__ import annotations

from sandfleet.adapters.qemu.config import AGENT_SOCKET
from sandfleet.adapters.qemu.host import Host
from sandfleet.model.errors import GuestUnresponsive
from sandfleet.ports.guest import Guest


async def guest_session(host: Host, machine_id: str) -> Guest:
    """Return a session; with an agent that does not answer, one that connects when it is used."""
    socket = host.directory(machine_id) / AGENT_SOCKET
    try:
        return await host.guests(socket)
    except GuestUnresponsive:
        return host.late_guests(socket)  # it may answer later: whoever uses it then finds out
