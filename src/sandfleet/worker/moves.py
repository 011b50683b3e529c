"""What a worker knows of the moves of its sandboxes; the manifests on disk say it to the next process.

A departure is also who decides while its machine is being sent: by `planning.precopy`, and within what the
order allows.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sandfleet.model.errors import StaleEpoch
from sandfleet.model.move import MoveGround, MovePolicy, MoveSample, MoveVerdict, Way
from sandfleet.planning import precopy
from sandfleet.wire.move_manifest import Landing
from sandfleet.wire.move_messages import DECISIVE, DISKS, MEMORY, SWITCHING, MoveLimits, MoveState
from sandfleet.worker.background import OwnedTask

OVER_MAX = 20_000


@dataclass(slots=True)
class Arrival:
    """One move to here."""

    move_id: str
    making: OwnedTask[Landing] | None = None
    taking_over: OwnedTask[None] | None = None


@dataclass(slots=True)
class Departure:
    """One move away from here. `hold` shuts everybody out; `wall_clock` tells when that was."""

    move_id: str
    policy: MovePolicy
    hold: Callable[[], None]
    wall_clock: Callable[[], float]
    step: str = DISKS
    said: str = ""
    chosen: Way | None = None
    newest: MoveSample | None = None
    stood_still_at_s: float = 0.0
    sending: OwnedTask[None] | None = None
    looking: OwnedTask[None] | None = None
    """What finds out what an undecided hand-over has come to."""
    ending: OwnedTask[None] | None = None
    _may_post_copy: bool = False
    _decisive: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def bytes_per_s_max(self) -> int:
        """How much may be sent in a second; 0 is no limit."""
        return self.policy.mib_per_s_max << 20

    @property
    def may_post_copy(self) -> bool:
        """Whether memory may follow its guest."""
        return self.policy.may_post_copy

    def way(self, ground: MoveGround) -> Way:
        """Return how the memory travels."""
        self.chosen = precopy.way(ground, self.policy)
        self._may_post_copy = ground.may_post_copy
        return self.chosen

    def course(self, samples: Sequence[MoveSample]) -> MoveVerdict:
        """Return what shall happen next."""
        verdict = precopy.course(samples, self.policy, may_post_copy=self._may_post_copy)
        self.newest, self.said = samples[-1], verdict.reason
        if self.step == DISKS and self.newest.round > 0:
            self.step = MEMORY
        return verdict

    def switching(self) -> None:
        """Shut everybody out: the guest is about to stand still."""
        self.hold()
        self.step = SWITCHING
        self.stood_still_at_s = self.wall_clock()

    def settle(self, step: str, said: str = "") -> None:
        """Note what it has come to, for all who wait for that."""
        self.step = step
        self.said = said or self.said
        self._decisive.set()

    async def decisive(self, *, timeout_s: float) -> None:
        """Return when something decisive is known, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._decisive.wait()
        except TimeoutError:
            return

    @property
    def is_open(self) -> bool:
        """Whether something decisive is still to come."""
        return self.step not in DECISIVE

    def state(self, sandbox_id: str) -> MoveState:
        """Return what the control plane is told."""
        newest = self.newest or _NOTHING
        return MoveState(
            move_id=self.move_id,
            sandbox_id=sandbox_id,
            step=self.step,
            way="" if self.chosen is None else self.chosen.value,
            round=newest.round,
            elapsed_s=newest.elapsed_s,
            transferred_bytes=newest.transferred_bytes,
            remaining_bytes=newest.remaining_bytes,
            dirty_bytes_per_s=newest.dirty_bytes_per_s,
            bandwidth_bytes_per_s=newest.bandwidth_bytes_per_s,
            downtime_ms_expected=newest.downtime_ms_expected,
            throttle_percent=newest.throttle_percent,
            said=self.said,
            stood_still_at_s=self.stood_still_at_s,
        )


@dataclass(slots=True)
class Moves:
    """Moves to here and from here that are over: an order for one that comes late is refused.

    Bounded, oldest first.
    """

    _over: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def give_up(self, move_id: str) -> None:
        """Never receive this move, nor send it."""
        self._over[move_id] = None
        while len(self._over) > OVER_MAX:
            self._over.popitem(last=False)

    def refuse_given_up(self, move_id: str) -> None:
        """Raise StaleEpoch for a move that was given up here."""
        if move_id in self._over:
            raise StaleEpoch(f"move {move_id} was given up here")


def policy_of(limits: MoveLimits) -> MovePolicy:
    """Return what the order allows, as the planner takes it."""
    return replace(
        MovePolicy(),
        downtime_ms_max=limits.downtime_ms_max,
        silent_s_max=limits.silent_s_max,
        rounds_max=limits.rounds_max,
        may_throttle=limits.may_throttle,
        may_post_copy=limits.may_post_copy,
        mib_per_s_max=limits.mib_per_s_max,
    )


_NOTHING = MoveSample(
    round=0,
    elapsed_s=0.0,
    silent_s=0.0,
    transferred_bytes=0,
    remaining_bytes=0,
    dirty_bytes_per_s=0,
    bandwidth_bytes_per_s=0,
    downtime_ms_expected=0.0,
)
