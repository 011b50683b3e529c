"""Which addresses and uids each worker of a one-machine fleet has: computed, so that none ever moves.

A fleet has a range number, each of its workers a slot. VMs outlive their worker and keep address and uid for
life, so what a slot has stays as it is in every later plan:

- Addresses: 10.(210 + range).0.0/16 is cut into eight parts, each part into two halves. The first eight slots
  have the lower halves, the next eight the upper ones. A worker counts its VMs from the beginning of what it
  has, so one that once had its part whole finds all of its VMs where they were.
- Uids: 1250 for each slot, from 200,000 on for the first eight and from 600,000 on for the next eight.
"""

from __future__ import annotations

from ipaddress import IPv4Network

WORKERS_MAX = 16
"""Each has a fixed part of the fleet's addresses and uids, so that none moves when another comes."""
RANGES = 32
"""Different fleets of one machine take different network ranges and uids."""
FIRST_RANGE = 210
_PARTS = 8
_PART_ADDRESSES = 2**16 // _PARTS
_ADDRESSES = _PART_ADDRESSES // (WORKERS_MAX // _PARTS)
_FIRST_UIDS = (200_000, 600_000)
_UIDS_PER_RANGE = 10_000
_UIDS = _UIDS_PER_RANGE // _PARTS


def network_range(range_number: int, slot: int) -> IPv4Network:
    """Return the addresses that the worker in `slot` has for its VMs."""
    turn, part = _turn_and_part(range_number, slot)
    fleet = IPv4Network(f"10.{FIRST_RANGE + range_number}.0.0/16")
    start = fleet.network_address + part * _PART_ADDRESSES + turn * _ADDRESSES
    return IPv4Network((start, 32 - (_ADDRESSES - 1).bit_length()))


def uid_first(range_number: int, slot: int) -> int:
    """Return the first of the uids that the worker in `slot` has for its VMs."""
    turn, part = _turn_and_part(range_number, slot)
    return _FIRST_UIDS[turn] + range_number * _UIDS_PER_RANGE + part * _UIDS


def _turn_and_part(range_number: int, slot: int) -> tuple[int, int]:
    if not (0 <= range_number < RANGES and 0 <= slot < WORKERS_MAX):
        raise ValueError(f"there is no place {slot} in range {range_number}")
    return divmod(slot, _PARTS)
