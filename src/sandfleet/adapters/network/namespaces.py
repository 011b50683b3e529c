"""The `Network` port on Linux: one network namespace per machine, nftables on both sides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from socket import socket

from sandfleet.adapters.network import connection, guest_sockets, nftables, plan, rules
from sandfleet.adapters.network.namespace_thread import (
    NAMESPACE_DIRECTORY,
    create_with_tap,
    remove_namespace,
    within,
)
from sandfleet.adapters.network.resolvers import host_resolvers
from sandfleet.adapters.network.rtnetlink import KernelNetwork
from sandfleet.adapters.processes import run_program
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.network import NetworkSeat

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
LINKS_DIRECTORY = Path("/sys/class/net")
LINK_REMOVAL_TRIES = 100
LINK_REMOVAL_PAUSE_S = 0.005


class NamespaceNetwork:
    """Namespaces of the machines whose id begins with `tag`, addressed out of `address_range`."""

    def __init__(
        self, *, tag: str, address_range: IPv4Network, resolvers: Sequence[str] | None = None
    ) -> None:
        self._tag = tag
        self._range = address_range
        self._resolvers = tuple(host_resolvers() if resolvers is None else resolvers)

    @property
    def resolvers(self) -> Sequence[str]:
        """The name servers that guests are led to."""
        return self._resolvers

    async def prepare(self) -> None:
        """Put the host's side in order: forwarding, masquerade, protection. Idempotent."""
        if IP_FORWARD.read_text().strip() != "1":
            IP_FORWARD.write_text("1")
        local = await _local_addresses()
        text = rules.host_rules(
            table=self._host_table,
            tag=self._tag,
            address_range=self._range,
            local_resolvers=[address for address in self._resolvers if address in local],
        )
        await asyncio.to_thread(nftables.carry_out, text)

    async def withdraw(self) -> None:
        """Remove our table from the host. Forwarding stays on: others may use it by now."""
        text = f"add table inet {self._host_table}\ndelete table inet {self._host_table}\n"
        await asyncio.to_thread(nftables.carry_out, text)

    async def create(self, seat: NetworkSeat) -> int:
        """Create the machine's namespace and return an open descriptor of its tap; the caller closes it."""
        namespace = self._links(seat).namespace
        return await create_with_tap(namespace, plan.TAP, sysctls=plan.NAMESPACE_SYSCTLS)

    async def connect(self, seat: NetworkSeat, *, enabled: bool) -> None:
        """Connect the namespace with the host, under its rules. The tap must be open."""
        ruleset = rules.namespace_rules(resolvers=self._resolvers, address_range=self._range, enabled=enabled)
        names = self._links(seat)
        with _host_side() as host:
            await within(names.namespace, lambda: connection.connect(host, names, rules_text=ruleset))

    async def set_egress(self, seat: NetworkSeat, *, enabled: bool) -> None:
        """Open or close the way out."""
        commands = rules.egress_change(enabled=enabled)
        await within(self._links(seat).namespace, lambda: nftables.carry_out(commands))

    async def listen_for_metadata(self, machine_id: str) -> socket:
        """Return a listening socket that this guest alone reaches."""
        return await guest_sockets.listen_for_metadata(machine_id)

    async def detach(self, machine_id: str) -> None:
        """Remove the namespace and its links. Idempotent."""
        remove_namespace(plan.NAMESPACE_PREFIX + machine_id)
        link = plan.LINK_PREFIX + machine_id
        for _ in range(LINK_REMOVAL_TRIES):
            # The kernel takes the pair down with the namespace, in its own time.
            if not (LINKS_DIRECTORY / link).exists():
                return
            await asyncio.sleep(LINK_REMOVAL_PAUSE_S)
        await _tolerating_absence(["ip", "link", "delete", link], LINKS_DIRECTORY / link)

    async def attached(self) -> Sequence[str]:
        """Return the ids of the machines that have a namespace or a link here, ours only."""
        found: set[str] = set()
        places = ((NAMESPACE_DIRECTORY, plan.NAMESPACE_PREFIX), (LINKS_DIRECTORY, plan.LINK_PREFIX))
        for directory, prefix in places:
            names = os.listdir(directory) if directory.is_dir() else []
            found.update(name.removeprefix(prefix) for name in names if name.startswith(prefix + self._tag))
        return sorted(found)

    def address_of(self, seat: NetworkSeat) -> str:
        """Return the machine's own address towards the host."""
        return self._links(seat).address

    @property
    def _host_table(self) -> str:
        return f"sandfleet_{self._tag}"

    def _links(self, seat: NetworkSeat) -> plan.Links:
        return plan.links(seat.machine_id, seat.slot, self._range)


def _host_side() -> KernelNetwork:
    try:
        return KernelNetwork()
    except OSError as error:
        raise HypervisorFailed(f"the host's links cannot be changed: {error}") from error


async def _local_addresses() -> set[str]:
    listed = await run_program(["ip", "-4", "-o", "addr", "show"])
    return {line.split()[3].split("/")[0] for line in listed.splitlines() if len(line.split()) > 3}


async def _tolerating_absence(argv: Sequence[str], thing: Path) -> None:
    """Run a deletion; somebody else having done it first is no failure."""
    try:
        await run_program(argv)
    except HypervisorFailed:
        if thing.exists():
            raise
