"""Which name servers guests may ask: those of the host that can be reached from a namespace."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
"""Where systemd-resolved names the real servers behind its loopback stub."""

RESOLVERS_MAX = 3


def host_resolvers(files: Sequence[Path] = (RESOLV_CONF, RESOLVED_CONF)) -> tuple[str, ...]:
    """Return the IPv4 name servers of the first file that has any outside loopback."""
    for file in files:
        try:
            found = usable_resolvers(file.read_text(errors="replace"))
        except OSError:
            continue
        if found:
            return found
    return ()


def usable_resolvers(text: str) -> tuple[str, ...]:
    """Return the name servers of a resolv.conf that a namespace can reach."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = IPv4Address(words[1])
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified or str(address) in found):
            found.append(str(address))
    return tuple(found[:RESOLVERS_MAX])
