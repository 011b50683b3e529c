"""Begins the roll-out of a version that the configured source names for the first time.

Only then: a version that was refused, or that somebody has gone back from, is not begun again because it is
still named there.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandfleet.controlplane.dependencies import ControlPlane
from sandfleet.model.errors import Conflict, PoolUnreachable
from sandfleet.model.launch import is_version
from sandfleet.planning.membership import usual_version
from sandfleet.ports.version_source import VersionSource

ACTOR = "source"


@dataclass(frozen=True, slots=True)
class VersionSourceLoop:
    """The leader's loop."""

    plane: ControlPlane
    source: VersionSource

    async def tick(self) -> str:
        """Read it, and begin what is new. Two leaders that do so begin the same."""
        try:
            named = await self.source.read()
        except PoolUnreachable as error:
            return error.message
        if named is None:
            return "no version is named"
        if not is_version(named):
            return f"what is named there is no version: {named[:100]!r}"
        rollouts, now = self.plane.stores.rollouts, self.plane.clock.now()
        known, before = await rollouts.version(named), await rollouts.current()
        if known is not None:
            why = f", and refused: {known.said}" if known.refused_at is not None else ""
            return f"version {named} was asked for before{why}"
        workers = await self.plane.stores.workers.list()
        previous = usual_version(workers) if before is None else before.rollout.target
        if named == previous:
            return f"version {named} is the one that runs"
        try:
            await rollouts.begin(named, previous, actor=ACTOR, at=now)
        except Conflict as error:
            return f"version {named} waits: {error.message}"
        return f"version {named} is named, and its roll-out begins"
