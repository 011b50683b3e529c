"""Slots: the small numbers from which a machine's uid and address follow, each held by one machine."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable

from sandfleet.adapters.qemu.config import MACHINE_ID_RANDOM_LENGTH
from sandfleet.model.errors import HypervisorFailed

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class Slots:
    """The slots of one host. What a manifest names is taken."""

    def __init__(self, count: int, *, taken: Iterable[int] = ()) -> None:
        self._count = count
        self._taken = set(taken)
        self._next = 0

    @property
    def taken(self) -> frozenset[int]:
        """The slots that machines hold."""
        return frozenset(self._taken)

    def take(self) -> int:
        """Take a free slot, the one that has been free the longest way round."""
        for step in range(self._count):
            slot = (self._next + step) % self._count
            if slot not in self._taken:
                self._taken.add(slot)
                self._next = slot + 1
                return slot
        raise HypervisorFailed(f"all {self._count} machine slots of this host are taken")

    def release(self, slot: int) -> None:
        """Give a slot back. Idempotent."""
        self._taken.discard(slot)


def new_machine_id(tag: str, *, existing: Collection[str]) -> str:
    """Return an id of this host that no machine has."""
    while True:
        machine_id = tag + "".join(secrets.choice(_ALPHABET) for _ in range(MACHINE_ID_RANDOM_LENGTH))
        if machine_id not in existing:
            return machine_id
