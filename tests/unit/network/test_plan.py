"""Names and addresses: one per machine, within what the kernel allows."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from sandfleet.adapters.network import plan

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


def test_rules_are_loaded_before_anything_is_connected() -> None:
    script = plan.connection_script(plan.links("abcdefghijkl", 3, RANGE), "THE RULES")
    assert script.startswith("set -e\n")
    assert script.index("THE RULES") < script.index("link add") < script.index("tap0 up")


def test_a_guest_finds_the_same_gateway_everywhere() -> None:
    scripts = [plan.connection_script(plan.links("abcdefghijkl", slot, RANGE), "") for slot in (0, 1)]
    for script in scripts:
        assert f"link set tap0 address {plan.GATEWAY_MAC}" in script
        assert "addr add 10.0.2.2/24 dev tap0" in script
