"""Names and addresses: one per machine, within what the kernel allows."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from sandfleet.adapters.network import plan, rtnetlink

RANGE = IPv4Network("10.210.0.0/24")


def test_every_slot_has_an_address_of_its_own_inside_the_range() -> None:
    count = plan.machine_count(RANGE)
    found = {plan.links("abcdefghijkl", slot, RANGE).address for slot in range(count)}
    assert len(found) == count == 239
    assert "10.210.0.1" not in found
    assert "10.210.0.255" not in found


@pytest.mark.parametrize("slot", [-1, 239])
def test_a_slot_outside_the_range_is_refused(slot: int) -> None:
    with pytest.raises(ValueError, match="slot"):
        plan.links("abcdefghijkl", slot, RANGE)


def test_names_fit_into_the_kernels_limit_and_longer_ids_are_refused() -> None:
    names = plan.links("abcdefghijkl", 0, RANGE)
    assert len(names.host_link) <= 15
    with pytest.raises(ValueError, match="longer"):
        plan.links("abcdefghijklm", 0, RANGE)


def test_a_guest_finds_the_same_gateway_everywhere() -> None:
    """What differs is only what lies on the host's side of the namespace."""
    machines = [plan.links("abcdefghijkl", slot, RANGE) for slot in (0, 1)]
    one, other = (plan.inside(names, tap=2, uplink=3) for names in machines)
    differing = [request.what for request, its in zip(one, other, strict=True) if request != its]
    assert differing == [f"address {machines[0].address}"]
    assert rtnetlink.link_up(2, hardware_address=plan.GATEWAY_MAC) in one
    assert rtnetlink.new_address("10.0.2.2", prefix_length=24, index=2) in one


def test_the_host_leads_a_machines_own_address_alone_to_its_link() -> None:
    names = plan.links("abcdefghijkl", 3, RANGE)
    assert rtnetlink.new_route("10.210.0.19", index=9) in plan.outside(names, link=9)
    assert len([one for one in plan.outside(names, link=9) if "route" in one.what]) == 1
