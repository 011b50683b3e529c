"""Names, addresses and requests of one machine's network, computed without touching the host.

    guest 10.0.2.15 -- tap0 10.0.2.2 [namespace sf-ID] up0 A/32 -- sfID G/32 [host] -- outside

A is the machine's own address out of the worker's range, G the host's one address
in that range. Namespace and links carry the machine's id, so that a sweep can tell
whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from sandfleet.adapters.network.rtnetlink import (
    Request,
    link_up,
    new_address,
    new_default_route,
    new_route,
)

GUEST_ADDRESS = "10.0.2.15"
GATEWAY_ADDRESS = "10.0.2.2"
GUEST_PREFIX_LENGTH = 24
GATEWAY_MAC = "52:54:00:5f:00:01"
"""The same everywhere: what a template's guest has learnt of its gateway stays true in its clones."""
METADATA_ADDRESS = "169.254.169.254"
METADATA_PORT = 80
"""At the gateway's address; asked for at any other than the metadata address it does not answer."""
TAP = "tap0"
UPLINK = "up0"
LOOPBACK_INDEX = 1
"""The same in each namespace."""
NAMESPACE_PREFIX = "sf-"
LINK_PREFIX = "sf"
MACHINE_ID_LENGTH = 12
"""An interface name has at most 15 characters."""

_FIRST_MACHINE_OFFSET = 16


@dataclass(frozen=True, slots=True)
class Links:
    """What the network of one machine is called, and its addresses."""

    machine_id: str
    address: str
    host_address: str

    @property
    def namespace(self) -> str:
        """Name of the namespace."""
        return NAMESPACE_PREFIX + self.machine_id

    @property
    def host_link(self) -> str:
        """Name of the host's end of the pair."""
        return LINK_PREFIX + self.machine_id


def links(machine_id: str, slot: int, address_range: IPv4Network) -> Links:
    """Return names and addresses of the machine in `slot`."""
    if len(machine_id) > MACHINE_ID_LENGTH:
        raise ValueError(f"machine id {machine_id!r} is longer than {MACHINE_ID_LENGTH} characters")
    if not 0 <= slot < machine_count(address_range):
        raise ValueError(f"slot {slot} has no address in {address_range}")
    base = int(address_range.network_address)
    return Links(
        machine_id=machine_id,
        address=str(IPv4Address(base + _FIRST_MACHINE_OFFSET + slot)),
        host_address=str(host_address(address_range)),
    )


def host_address(address_range: IPv4Network) -> IPv4Address:
    """Return the host's own address in the range."""
    return address_range.network_address + 1


def machine_count(address_range: IPv4Network) -> int:
    """Return how many machines the range has addresses for."""
    return max(0, address_range.num_addresses - _FIRST_MACHINE_OFFSET - 1)


def outside(names: Links, *, link: int) -> list[Request]:
    """Return what the host's end of the pair needs, which has the number `link`."""
    return [
        new_address(names.host_address, prefix_length=32, index=link),
        link_up(link),
        new_route(names.address, index=link),
    ]


def inside(names: Links, *, tap: int, uplink: int) -> list[Request]:
    """Return what the links inside the namespace need."""
    return [
        link_up(LOOPBACK_INDEX),
        link_up(tap, hardware_address=GATEWAY_MAC),
        new_address(GATEWAY_ADDRESS, prefix_length=GUEST_PREFIX_LENGTH, index=tap),
        new_address(names.address, prefix_length=32, index=uplink),
        link_up(uplink),
        new_route(names.host_address, index=uplink),
        new_default_route(names.host_address, index=uplink),
    ]


NAMESPACE_SYSCTLS: dict[str, str] = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
}
