"""The network of a machine on the real kernel, without a machine in it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import threading
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from tests.waiting import eventually

from sandfleet.adapters.network.namespaces import NamespaceNetwork
from sandfleet.model.errors import HypervisorFailed
from sandfleet.ports.network import NetworkSeat

RANGE = IPv4Network("10.246.0.0/24")
ADDRESS, HOST_ADDRESS = "10.246.0.19", "10.246.0.1"
SLOT = 3


@pytest.fixture
def seat() -> NetworkSeat:
    return NetworkSeat(secrets.token_hex(6), SLOT)


@pytest.fixture
async def network(seat: NetworkSeat) -> AsyncIterator[NamespaceNetwork]:
    """Return a network in which the seat's namespace and tap are there, as before a QEMU starts."""
    made = NamespaceNetwork(tag=seat.machine_id, address_range=RANGE, resolvers=["192.0.2.53"])
    tap = await made.create(seat)
    yield made
    os.close(tap)
    await made.detach(seat.machine_id)
    assert await made.attached() == []


def _within(seat: NetworkSeat, *argv: str) -> str:
    entry = ["nsenter", f"--net=/run/netns/sf-{seat.machine_id}"]
    return subprocess.run([*entry, *argv], check=True, capture_output=True, text=True).stdout


def _addresses(listed: str) -> dict[str, list[str]]:
    return {
        link["ifname"]: [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"]]
        for link in json.loads(listed)
    }


def _routes(listed: str) -> set[tuple[str, str, str | None]]:
    return {(one["dst"], one["dev"], one.get("gateway")) for one in json.loads(listed)}


def _on_host(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


async def test_links_addresses_and_routes_lead_both_ways(
    network: NamespaceNetwork, seat: NetworkSeat
) -> None:
    await network.connect(seat, enabled=True)
    link = f"sf{seat.machine_id}"
    assert _addresses(_on_host("ip", "-j", "-4", "addr", "show", "dev", link)) == {
        link: [f"{HOST_ADDRESS}/32"]
    }
    assert [one["dst"] for one in json.loads(_on_host("ip", "-j", "route", "show", "dev", link))] == [ADDRESS]
    inside = _addresses(_within(seat, "ip", "-j", "-4", "addr"))
    assert inside == {"lo": ["127.0.0.1/8"], "tap0": ["10.0.2.2/24"], "up0": [f"{ADDRESS}/32"]}
    links = {one["ifname"]: one for one in json.loads(_within(seat, "ip", "-j", "link"))}
    assert links["tap0"]["address"] == "52:54:00:5f:00:01"
    assert all("UP" in one["flags"] for one in links.values())
    assert _routes(_within(seat, "ip", "-j", "route")) == {
        ("default", "up0", HOST_ADDRESS),
        (HOST_ADDRESS, "up0", None),
        ("10.0.2.0/24", "tap0", None),
    }


async def test_rules_are_there_before_anything_is_connected(seat: NetworkSeat) -> None:
    broken = NamespaceNetwork(tag=seat.machine_id, address_range=RANGE, resolvers=["no address at all"])
    tap = await broken.create(seat)
    try:
        with pytest.raises(HypervisorFailed, match=r"nftables refused rules: .*error"):
            await broken.connect(seat, enabled=True)
        assert not Path(f"/sys/class/net/sf{seat.machine_id}").exists()
        assert _addresses(_within(seat, "ip", "-j", "-4", "addr")) == {}
        assert _within(seat, "nft", "list", "ruleset") == ""
    finally:
        os.close(tap)
        await broken.detach(seat.machine_id)


async def test_the_way_out_is_opened_and_closed_in_the_namespace_alone(
    network: NamespaceNetwork, seat: NetworkSeat
) -> None:
    await network.connect(seat, enabled=False)
    chain = ("nft", "list", "chain", "inet", "sandfleet", "egress")
    before = _on_host("nft", "list", "tables")
    closed = _within(seat, *chain)
    await network.set_egress(seat, enabled=True)
    opened = _within(seat, *chain)
    assert "accept" in opened
    assert "accept" not in closed
    await network.set_egress(seat, enabled=False)
    assert _within(seat, *chain) == closed
    assert _on_host("nft", "list", "tables") == before


async def test_what_the_kernel_refuses_is_named(network: NamespaceNetwork, seat: NetworkSeat) -> None:
    await network.connect(seat, enabled=True)
    with pytest.raises(HypervisorFailed, match=f"File exists: 'link sf{seat.machine_id}'"):
        await network.connect(seat, enabled=True)
    absent = NetworkSeat(secrets.token_hex(6), SLOT)
    with pytest.raises(HypervisorFailed, match="No such file"):
        await network.connect(absent, enabled=True)


async def test_connecting_leaves_no_descriptor_and_no_thread(
    network: NamespaceNetwork, seat: NetworkSeat
) -> None:
    before = _descriptors()
    await network.connect(seat, enabled=True)
    for enabled in (False, True):
        await network.set_egress(seat, enabled=enabled)
    assert _descriptors() == before
    own = f"in-sf-{seat.machine_id}"
    await eventually(
        lambda: not any(one.name.startswith(own) for one in threading.enumerate()), what="the threads to end"
    )


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.001, 0.002, 0.004, 0.008])
async def test_who_is_cancelled_has_waited_until_nothing_more_is_made(
    network: NamespaceNetwork, seat: NetworkSeat, seconds: float
) -> None:
    try:
        async with asyncio.timeout(seconds):
            await network.connect(seat, enabled=True)
    except TimeoutError:
        pass  # the fixture sees that nothing is left, and nothing comes any more


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
