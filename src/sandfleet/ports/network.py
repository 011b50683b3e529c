"""The network of one machine, as the hypervisor uses it (adapter: `adapters/network`).

Every machine has its own network namespace in which the guest has the same
addresses as everywhere else; only the address towards the host differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from socket import socket
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NetworkSeat:
    """Whose network it is: the machine's id, and its slot among the host's machines."""

    machine_id: str
    slot: int


class Network(Protocol):
    """Namespaces of one host. Every method raises `HypervisorFailed` within its own bound."""

    async def prepare(self) -> None:
        """Put the host's side in order: forwarding, masquerade, protection. Idempotent."""
        ...

    async def create(self, seat: NetworkSeat) -> int:
        """Create the machine's namespace and return an open descriptor of its tap; the caller closes it.

        Nothing is left behind when it fails.
        """
        ...

    async def connect(self, seat: NetworkSeat, *, enabled: bool) -> None:
        """Connect the namespace with the host, under its rules. The tap must be open."""
        ...

    async def set_egress(self, seat: NetworkSeat, *, enabled: bool) -> None:
        """Open or close the way out."""
        ...

    async def listen_for_metadata(self, machine_id: str) -> socket:
        """Return a listening socket that the guest reaches at the metadata address, and nobody else."""
        ...

    async def detach(self, machine_id: str) -> None:
        """Remove the namespace and its links. Idempotent."""
        ...

    async def attached(self) -> Sequence[str]:
        """Return the ids of the machines that have a namespace here, ours only."""
        ...
