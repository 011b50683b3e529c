"""The nftables rules, as text, that confine a guest in its namespace and protect the host.

Rule 1: whatever is not allowed here is dropped, both ways; IPv6 always.
Rule 2: with egress closed nothing leaves, name resolution included: a resolver carries
data out as well as any other server.
Rule 3: closing egress also ends what is open: a guest's own connections are judged packet by packet.
Rule 4: on the host only our own table is written; it never accepts what another
table of the host drops.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from sandfleet.adapters.network.plan import (
    GATEWAY_ADDRESS,
    GUEST_ADDRESS,
    LINK_PREFIX,
    METADATA_ADDRESS,
    METADATA_PORT,
    TAP,
    UPLINK,
)

DENIED_RANGES: tuple[str, ...] = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)
"""This network, private, shared, loopback, link-local (metadata), benchmarking, multicast and reserved."""

_EGRESS_CHAIN = "egress"


def namespace_rules(
    *, resolvers: Sequence[str], address_range: IPv4Network, enabled: bool, denied: Sequence[str] = ()
) -> str:
    """Return the table of one machine's namespace. `denied` are further destinations."""
    elements = ", ".join([*DENIED_RANGES, *_outside_denied([str(address_range), *denied])])
    return f"""\
table inet sandfleet {{
  set denied {{
    type ipv4_addr
    flags interval
    auto-merge
    elements = {{ {elements} }}
  }}
  chain spoofed {{
    type filter hook prerouting priority raw; policy accept;
    meta nfproto ipv6 drop
    iifname "{TAP}" ip saddr != {GUEST_ADDRESS} drop
  }}
{_metadata_chain()}  chain resolve {{
    type nat hook prerouting priority dstnat; policy accept;
{_resolver_rules(resolvers)}  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{UPLINK}" masquerade
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname "{TAP}" ct status dnat tcp dport {METADATA_PORT} accept
    iifname "{TAP}" ip daddr {GATEWAY_ADDRESS} icmp type echo-request limit rate 20/second accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    iifname "{TAP}" oifname "{UPLINK}" ct direction original jump {_EGRESS_CHAIN}
    iifname "{UPLINK}" oifname "{TAP}" ct state established,related accept
    iifname "{TAP}" oifname "{UPLINK}" ct direction reply ct state established,related accept
  }}
  chain {_EGRESS_CHAIN} {{
{_egress_rules(enabled=enabled)}  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    meta nfproto ipv6 drop
    ct state established,related accept
    oifname "{TAP}" ip daddr {GUEST_ADDRESS} accept
  }}
}}
"""


def egress_change(*, enabled: bool) -> str:
    """Return the commands that open or close egress, in one transaction."""
    rules = "".join(
        f"add rule inet sandfleet {_EGRESS_CHAIN} {rule.strip()}\n"
        for rule in _egress_rules(enabled=enabled).splitlines()
    )
    return f"flush chain inet sandfleet {_EGRESS_CHAIN}\n{rules}"


def host_rules(*, table: str, tag: str, address_range: IPv4Network, local_resolvers: Sequence[str]) -> str:
    """Return the host's table for the machines whose id begins with `tag`; it replaces an older one."""
    ours = f'"{LINK_PREFIX}{tag}*"'
    every = f'"{LINK_PREFIX}*"'
    resolve = "".join(
        f"    iifname {ours} ip daddr {address} {protocol} dport 53 accept\n"
        for address in local_resolvers
        for protocol in ("udp", "tcp")
    )
    return f"""\
add table inet {table}
delete table inet {table}
table inet {table} {{
  chain input {{
    type filter hook input priority -5; policy accept;
    iifname != {ours} accept
    ct state established,related accept
{resolve}    drop
  }}
  chain forward {{
    type filter hook forward priority -5; policy accept;
    iifname {ours} oifname {every} drop
    oifname {ours} ct state established,related accept
    oifname {ours} drop
    iifname {ours} ip saddr != {address_range} drop
    iifname {ours} meta nfproto ipv6 drop
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {address_range} oifname != {every} masquerade
  }}
}}
"""


def _egress_rules(*, enabled: bool) -> str:
    if not enabled:
        return "    drop\n"
    return (
        "    ct status dnat meta l4proto { udp, tcp } th dport 53 accept\n"
        "    ip daddr @denied drop\n"
        "    ip protocol { icmp, udp, tcp } accept\n"
    )


def _metadata_chain() -> str:
    return f"""\
  chain metadata {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{TAP}" ip daddr {METADATA_ADDRESS} tcp dport {METADATA_PORT} dnat ip to {GATEWAY_ADDRESS}
  }}
"""


def _resolver_rules(resolvers: Sequence[str]) -> str:
    if not resolvers:
        return ""
    if len(resolvers) == 1:
        target = resolvers[0]
    else:
        choices = ", ".join(f"{place} : {address}" for place, address in enumerate(resolvers))
        target = f"numgen inc mod {len(resolvers)} map {{ {choices} }}"
    match = f'    iifname "{TAP}" ip daddr {GATEWAY_ADDRESS} meta l4proto {{ udp, tcp }} th dport 53'
    return f"{match} dnat ip to {target}\n"


def _outside_denied(addresses: Sequence[str]) -> list[str]:
    """Return those not already inside a denied range, each once."""
    ranges = [IPv4Network(text) for text in DENIED_RANGES]
    kept: list[str] = []
    for text in addresses:
        network = IPv4Network(text if "/" in text else f"{IPv4Address(text)}/32")
        if str(network) not in kept and not any(network.subnet_of(other) for other in ranges):
            kept.append(str(network))
    return kept
