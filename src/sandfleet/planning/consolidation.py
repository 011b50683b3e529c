"""Which workers the fleet can do without: those whose removal saves most for what it disturbs.

Rule 1: nobody is chosen whose sandboxes were not shown to fit elsewhere, beside all that
waits, is foreseen, and was there at the peak of the last while.
Rule 2: the order of the proof is the order of a drain, lightest first, so the drain does
what was proven.
Rule 3: whoever is not chosen is told why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sandfleet.model.drain import DrainOwner
from sandfleet.model.ids import WorkerId
from sandfleet.model.worker import WorkerState
from sandfleet.planning.capacity_policy import CapacityPolicy, DesiredSum
from sandfleet.planning.fleet import DrainWorker, Member, Resident
from sandfleet.planning.packing import Packing

PROOFS_MAX = 20
"""How many workers are tried in one round."""


@dataclass(frozen=True, slots=True)
class Shrinking:
    """Whom the fleet lets go, and why not the others."""

    drains: Sequence[DrainWorker]
    refused: Mapping[WorkerId, str]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a choice stands on: the fleet with all demand placed, and the number that it needs."""

    packing: Packing
    needed: DesiredSum
    current: int
    returned_at: Mapping[WorkerId, datetime]
    drains_max: int


def shrink(members: Sequence[Member], ground: Ground, policy: CapacityPolicy, *, now: datetime) -> Shrinking:
    """Choose whom to drain."""
    refused: dict[WorkerId, str] = {}
    candidates: list[Member] = []
    for member in members:
        reason = _ineligible(member, ground, policy, now)
        if reason is None:
            candidates.append(member)
        else:
            refused[member.worker.id] = reason
    drains: list[DrainWorker] = []
    for tried, (worth, member) in enumerate(_by_worth(candidates, members, policy)):
        reason = _budget_refusal(tried, len(drains), ground)
        if reason is None and worth < policy.worth_min:
            reason = f"it saves {worth:.2f} times the share that it disturbs, {policy.worth_min} is asked for"
        if reason is None:
            reason = _proof_refusal(member, ground, gone=len(drains) + 1)
        if reason is not None:
            refused[member.worker.id] = reason
            continue
        # Nobody is put to sleep to save a machine.
        why = _why(member, worth)
        drains.append(DrainWorker(member.worker.id, DrainOwner.CAPACITY, why, hibernates=False))
    return Shrinking(drains, refused)


def lightest_first(residents: Sequence[Resident]) -> Sequence[Resident]:
    """Return them in the order in which a drain moves them."""
    return sorted(residents, key=lambda one: (one.request.resources.memory_mib, one.sandbox_id))


def _ineligible(member: Member, ground: Ground, policy: CapacityPolicy, now: datetime) -> str | None:
    worker = member.worker
    if worker.state is not WorkerState.READY:
        return f"is {worker.state}"
    if not member.takes_more:
        return "is draining" if member.is_draining else "is cordoned"
    if member.size not in {size.key for size in policy.sizes}:
        return f"its machine ({member.size}) is not ours to remove"
    age_s = (now - member.added_at).total_seconds()
    if age_s < policy.age_s_min:
        return f"is {age_s:.0f} s old, {policy.age_s_min:.0f} s at least"
    if worker.committed.memory_mib > sum(one.request.resources.memory_mib for one in member.residents):
        return "something is being placed on it"
    returned = ground.returned_at.get(worker.id)
    if returned is not None and (now - returned).total_seconds() < policy.returned_pause_s:
        return "its last drain was called off a short while ago"
    return None


def _by_worth(
    candidates: Sequence[Member], members: Sequence[Member], policy: CapacityPolicy
) -> Iterator[tuple[float, Member]]:
    """Each with its saved share over its disturbed share, the best first."""
    prices = {size.key: size.price_per_hour or size.resources.memory_mib for size in policy.sizes}
    saved_all = sum(prices.get(one.size, 0.0) for one in members)
    disturbed_all = sum(one.worker.committed.memory_mib for one in members)

    def worth(member: Member) -> float:
        disturbed = member.worker.committed.memory_mib
        return prices[member.size] / saved_all / (disturbed / disturbed_all) if disturbed else float("inf")

    yield from sorted(
        ((worth(one), one) for one in candidates), key=lambda pair: (-pair[0], pair[1].worker.id)
    )


def _budget_refusal(tried: int, chosen: int, ground: Ground) -> str | None:
    if chosen >= ground.drains_max:
        return "others are drained first"
    return "not tried in this round" if tried >= PROOFS_MAX else None


def _proof_refusal(member: Member, ground: Ground, *, gone: int) -> str | None:
    """Say why the fleet needs this worker; if it does not, its sandboxes have their new places now."""
    most = ground.current - gone
    least = replace(ground.needed, occupied=0)
    if least.desired > most:
        return f"{least.desired} workers are wanted at least"
    occupied_max = most - least.surge - least.standing - least.idle_reserve
    requests = [one.request for one in lightest_first(member.residents)]
    return ground.packing.empty(member.worker.id, requests, occupied_max=occupied_max)


def _why(member: Member, worth: float) -> str:
    if not member.residents:
        return "it is empty and more than the reserve"
    moving = f"its {len(member.residents)} sandboxes fit elsewhere"
    return f"{moving}; it saves {worth:.1f} times the share that is disturbed"
