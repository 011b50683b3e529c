"""The rules as text: what is denied comes before what is allowed, and closed means closed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from sandfleet.adapters.network.resolvers import usable_resolvers
from sandfleet.adapters.network.rules import DENIED_RANGES, egress_change, host_rules, namespace_rules

RANGE = IPv4Network("10.210.0.0/16")


def chain(text: str, name: str) -> list[str]:
    """Return the lines of one chain."""
    body = text.split(f"chain {name} {{\n")[1].split("  }\n")[0]
    return [line.strip() for line in body.splitlines()]


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "172.16.5.5", "172.31.255.255", "192.168.0.1", "100.64.0.1", "169.254.169.254", "127.0.0.1",
     "0.0.0.0", "224.0.0.251", "255.255.255.255", "240.0.0.1"],
)  # fmt: skip
def test_private_and_special_addresses_are_denied(address: str) -> None:
    assert any(IPv4Address(address) in IPv4Network(text) for text in DENIED_RANGES)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "198.51.100.2", "172.32.0.1", "100.128.0.1"])
def test_the_internet_is_not_denied(address: str) -> None:
    assert not any(IPv4Address(address) in IPv4Network(text) for text in DENIED_RANGES)


def test_open_egress_denies_before_it_accepts() -> None:
    lines = chain(namespace_rules(resolvers=["9.9.9.9"], address_range=RANGE, enabled=True), "egress")
    assert lines == [
        "ct status dnat meta l4proto { udp, tcp } th dport 53 accept",
        "ip daddr @denied drop",
        "ip protocol { icmp, udp, tcp } accept",
    ]


def test_closed_egress_is_a_drop_and_nothing_else() -> None:
    text = namespace_rules(resolvers=["9.9.9.9"], address_range=RANGE, enabled=False)
    assert chain(text, "egress") == ["drop"]
    assert egress_change(enabled=False).splitlines() == [
        "flush chain inet sandfleet egress",
        "add rule inet sandfleet egress drop",
    ]


def test_every_filter_of_the_namespace_drops_by_default() -> None:
    text = namespace_rules(resolvers=[], address_range=RANGE, enabled=True)
    for name in ("input", "forward", "output"):
        assert "policy drop;" in chain(text, name)[0]


def test_a_guests_own_connections_are_judged_before_established_ones_are_waved_through() -> None:
    lines = chain(namespace_rules(resolvers=[], address_range=RANGE, enabled=True), "forward")
    judged = next(place for place, line in enumerate(lines) if "jump egress" in line)
    assert not any("established" in line for line in lines[:judged])
    assert "ct direction original" in lines[judged]


def test_forged_sources_and_ipv6_are_dropped_first() -> None:
    text = namespace_rules(resolvers=[], address_range=RANGE, enabled=True)
    assert chain(text, "spoofed")[1:] == [
        "meta nfproto ipv6 drop",
        'iifname "tap0" ip saddr != 10.0.2.15 drop',
    ]


def test_a_public_machine_range_is_denied_as_well_and_named_once() -> None:
    text = namespace_rules(
        resolvers=[],
        address_range=IPv4Network("198.51.100.0/24"),
        enabled=True,
        denied=["203.0.113.7", "10.1.1.1"],
    )
    elements = text.split("elements = {")[1].split("}")[0]
    assert elements.count("198.51.100.0/24") == 1
    assert "203.0.113.7/32" in elements
    assert "10.1.1.1" not in elements


def test_names_are_resolved_by_the_hosts_servers_only() -> None:
    none = namespace_rules(resolvers=[], address_range=RANGE, enabled=True)
    one = namespace_rules(resolvers=["9.9.9.9"], address_range=RANGE, enabled=True)
    two = namespace_rules(resolvers=["9.9.9.9", "9.9.9.10"], address_range=RANGE, enabled=True)
    assert not [rule for rule in chain(none, "resolve") if "dnat" in rule and "dport 53" in rule]
    assert chain(one, "resolve")[-1].endswith("dnat ip to 9.9.9.9")
    assert chain(two, "resolve")[-1].endswith("dnat ip to numgen inc mod 2 map { 0 : 9.9.9.9, 1 : 9.9.9.10 }")


def test_the_host_lets_guests_in_for_nothing_but_its_own_resolver() -> None:
    text = host_rules(table="sandfleet_ab", tag="ab", address_range=RANGE, local_resolvers=["192.0.2.1"])
    lines = chain(text, "input")
    assert lines[-1] == "drop"
    assert [
        line for line in lines if line.startswith("iifname") and "accept" in line and "!=" not in line
    ] == [
        'iifname "sfab*" ip daddr 192.0.2.1 udp dport 53 accept',
        'iifname "sfab*" ip daddr 192.0.2.1 tcp dport 53 accept',
    ]


def test_the_host_forwards_from_no_guest_to_another() -> None:
    text = host_rules(table="sandfleet_ab", tag="ab", address_range=RANGE, local_resolvers=[])
    assert chain(text, "forward")[1] == 'iifname "sfab*" oifname "sf*" drop'


def test_resolvers_on_loopback_are_of_no_use_to_a_namespace() -> None:
    text = "# c\nnameserver 127.0.0.53\nnameserver ::1"
    text += "\nnameserver 192.0.2.9\nnameserver 192.0.2.9\nnameserver x\n"
    assert usable_resolvers(text) == ("192.0.2.9",)


def test_the_metadata_address_leads_to_the_gateway_and_only_that_way_is_let_in() -> None:
    text = namespace_rules(resolvers=[], address_range=RANGE, enabled=False)
    led = [line for line in chain(text, "metadata") if "dnat" in line]
    assert led == ['iifname "tap0" ip daddr 169.254.169.254 tcp dport 80 dnat ip to 10.0.2.2']
    let_in = [line for line in chain(text, "input") if "dport 80" in line]
    assert let_in == ['iifname "tap0" ct status dnat tcp dport 80 accept']
