"""Live migration between two hosts, as the worker uses it (adapter: `adapters/qemu`).

The guest stands still on the source until somebody says whether the move counts: then the target
takes over and the source is released, or the source goes on and the target is removed. Neither is ever
decided here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandfleet.model.move import MoveGround, MoveSample, MoveVerdict, Outcome, Way
from sandfleet.ports.guest import Guest
from sandfleet.ports.hypervisor import Machine
from sandfleet.wire.move_manifest import Landing, MoveManifest

FetchBackings = Callable[[Mapping[str, Path]], Awaitable[None]]
"""Writes the files with these digests to the given paths, verified, or raises."""

Tell = Callable[[Guest], Awaitable[None]]
"""Tells a guest what it must know before anybody reaches it. May be repeated."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A machine that is expected here, and whose it will be. `host` is the address that it is received at."""

    move_id: str
    manifest: MoveManifest
    owner: str
    epoch: int
    host: str
    may_post_copy: bool = False
    """Whether its memory may follow it, if it cannot go before it."""


class Pilot(Protocol):
    """Who decides while a machine is being sent."""

    @property
    def bytes_per_s_max(self) -> int:
        """How much may be sent in a second; 0 is no limit."""
        ...

    @property
    def may_post_copy(self) -> bool:
        """Whether memory may follow its guest, if both hosts can."""
        ...

    def way(self, ground: MoveGround) -> Way:
        """Return how the memory travels."""
        ...

    def course(self, samples: Sequence[MoveSample]) -> MoveVerdict:
        """Return what shall happen next. A sample of round 0 is of the disks."""
        ...

    def switching(self) -> None:
        """Learn that the guest is about to stand still: nobody may reach it from now on."""
        ...


class Mover(Protocol):
    """The part of a host's engine that lets machines come and go."""

    async def describe(self, machine: Machine) -> MoveManifest:
        """Return what a target must know of the machine."""
        ...

    async def backings(self, machine: Machine) -> dict[str, Path]:
        """Return the files that the machine's disks stand on, by digest."""
        ...

    async def receive(self, arrival: Arrival, fetch: FetchBackings) -> tuple[Machine, Landing]:
        """Make the place for a machine: it waits, and runs only after `take_over`.

        Raises `SnapshotUnusable` when this host cannot run it, and why; nothing is left behind then.
        """
        ...

    async def landing(self, machine: Machine) -> Landing:
        """Return again where an arriving machine is expected."""
        ...

    async def landed(self, machine: Machine) -> None:
        """Return when the arriving machine could run; `HypervisorFailed` when it never will."""
        ...

    async def take_over(self, machine: Machine, *, tell: Tell) -> Mapping[str, float]:
        """Have the arrived machine run, its agent told, and this written down. May be repeated.

        Returns by when, in milliseconds since the call, each step had been done.
        """
        ...

    async def send(self, machine: Machine, landing: Landing, *, move_id: str, pilot: Pilot) -> None:
        """Return when the target has all it needs to run; the guest stands still then, here and there.

        A failure leaves the guest running here; after `MoveUndecided` it stands still here, and
        whether the target could run is to be asked there.
        """
        ...

    async def outcome(self, machine: Machine) -> Outcome:
        """Return what an undecided hand-over has come to; a guest that was kept runs again here."""
        ...

    async def sent(self, machine: Machine) -> None:
        """Return when the target needs nothing more of the machine; `HypervisorFailed` if it gets no more."""
        ...

    async def stay(self, machine: Machine) -> None:
        """Have the machine run here again, whatever its move has come to. May be repeated.

        The caller has made sure that the target does not run.
        """
        ...
