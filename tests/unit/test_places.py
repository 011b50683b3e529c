"""The plan of a machine's addresses and uids: no two have one, and none ever moves."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import combinations, pairwise

import pytest

from sandfleet.adapters.network.plan import links, machine_count
from sandfleet.local.places import RANGES, WORKERS_MAX, network_range, uid_first
from sandfleet.worker.engine import MACHINES_MAX

ALL = [(number, slot) for number in range(RANGES) for slot in range(WORKERS_MAX)]
_CONTAINERS_FROM = 2**16
"""Below are the uids that Debian's policy and systemd hand out."""


def test_nine_workers_and_the_surge_of_a_roll_out_find_room() -> None:
    assert WORKERS_MAX >= 16


def test_each_worker_has_as_many_addresses_as_it_may_have_vms_within_its_fleets_range() -> None:
    for number, slot in ALL:
        network = network_range(number, slot)
        assert network.subnet_of(IPv4Network(f"10.{210 + number}.0.0/16"))
        assert machine_count(network) >= MACHINES_MAX


def test_no_two_workers_of_a_fleet_share_an_address() -> None:
    networks = [network_range(3, slot) for slot in range(WORKERS_MAX)]
    assert not any(one.overlaps(other) for one, other in combinations(networks, 2))


def test_no_two_workers_of_any_two_fleets_share_a_uid() -> None:
    firsts = sorted(uid_first(number, slot) for number, slot in ALL)
    assert firsts[0] > _CONTAINERS_FROM
    assert all(after - before >= MACHINES_MAX for before, after in pairwise(firsts))


@pytest.mark.parametrize("slot", range(8))
def test_a_fleet_from_the_time_of_eight_workers_finds_its_vms_where_they_were(slot: int) -> None:
    """Each had an eighth of the range and of ten thousand uids."""
    before, now = IPv4Network((f"10.215.{slot * 32}.0", 19)), network_range(5, slot)
    assert uid_first(5, slot) == 250_000 + slot * 1250
    for machine in range(MACHINES_MAX):
        assert links("0a1b-x", machine, now) == links("0a1b-x", machine, before)


def test_what_is_none_of_a_plans_places_has_no_address() -> None:
    for number, slot in ((0, WORKERS_MAX), (0, -1), (RANGES, 0)):
        with pytest.raises(ValueError, match=f"no place {slot} in range {number}"):
            network_range(number, slot)
