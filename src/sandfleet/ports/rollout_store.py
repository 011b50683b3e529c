"""Roll-outs and the versions that they are of, durably (adapter: `adapters/postgres/rollouts.py`).

Rule 1: there is one roll-out at a time, the newest; those before it have ended.
Rule 2: every write is a compare-and-set on `revision`. The leader's go with its decision
(`ports.fleet_store.FleetDecision`), in its term; an operator's word needs no term and is never written over.
Rule 3: what a stage means for a version and its workers is written with the stage: passed or refused, and
that the workers of a version take nothing until it has passed its boot test.
Rule 4: a proof is of one worker and one version; what a worker proved before it ran another is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from sandfleet.model.errors import Conflict
from sandfleet.model.fleet_news import FleetNews
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.planning.fleet import Surge
from sandfleet.planning.rollout_health import Wellness
from sandfleet.planning.rollout_state import Rollout, RolloutStage

ROLLOUTS_SHOWN = 50
ROLLOUT_UNDER_WAY, ROLLOUT_OVER, VERSION_RUNS = "rollout_under_way", "rollout_over", "version_runs"
STEPS_KEPT = 100
"""An end is left again when a worker of the wrong version comes back, so there may be many."""


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """A stage that was reached, by whom and why."""

    stage: RolloutStage
    at: datetime
    actor: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "stage": self.stage.value,
            "at": self.at.isoformat(),
            "actor": self.actor,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RolloutStep:
        """Return what `to_json` wrote."""
        at = datetime.fromisoformat(value["at"])
        return cls(RolloutStage(value["stage"]), at, value["actor"], value["reason"])


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A roll-out as it is written down, or is to be: then `revision` is the one that was read."""

    number: int
    rollout: Rollout
    actor: str
    """Who asked for it."""
    revision: int = 1
    surge: Surge = field(default_factory=Surge)
    """What capacity is asked for."""
    said: str = ""
    """What its last round said."""
    steps: Sequence[RolloutStep] = ()

    def after(
        self, rollout: Rollout, *, actor: str, surge: Surge | None = None, said: str = ""
    ) -> StoredRollout:
        """Return it with its next state; a stage that it reaches is one more of its steps."""
        steps = self.steps
        if rollout.stage is not self.rollout.stage:
            step = RolloutStep(rollout.stage, rollout.stage_at, actor, rollout.reason)
            steps = (*steps, step)[-STEPS_KEPT:]
        return replace(
            self, rollout=rollout, surge=self.surge if surge is None else surge, said=said, steps=tuple(steps)
        )


def first_steps(rollout: Rollout, *, actor: str) -> Sequence[RolloutStep]:
    """Return the steps of one that begins."""
    return (RolloutStep(rollout.stage, rollout.stage_at, actor, rollout.reason),)


def rollout_news(after: StoredRollout) -> FleetNews:
    """Return what the log tells of a stage that was reached."""
    rollout = after.rollout
    return FleetNews(
        "rollout",
        rollout.reason or f"version {rollout.version} after {rollout.previous}",
        detail={"rollout": after.number, "version": rollout.version},
    )


def same_rollout(under_way: StoredRollout, version: str) -> StoredRollout:
    """Return the one that is under way if it is that version's; Conflict `rollout_under_way`."""
    rollout = under_way.rollout
    if rollout.version != version or rollout.target != version:
        raise Conflict(f"the roll-out of version {rollout.version} is under way", code=ROLLOUT_UNDER_WAY)
    return under_way


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the worker's image that was asked for at least once."""

    name: str
    registered_at: datetime
    registered_by: str
    tested_at: datetime | None = None
    """When a machine of it had run a sandbox."""
    refused_at: datetime | None = None
    """When a roll-out of it turned round; asked for again it is tested anew."""
    said: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether a worker ran a sandbox of the fleet's own, and how often it was tried."""

    worker_id: WorkerId
    version: str
    attempts: int = 0
    failed: int = 0
    sandbox_id: SandboxId | None = None
    """The trial that is under way."""
    begun_at: datetime | None = None
    proven_at: datetime | None = None
    said: str = ""


class RolloutStore(Protocol):
    """Roll-outs, versions and proofs."""

    async def current(self) -> StoredRollout | None:
        """Return the one that is under way or was the last; None before the first."""
        ...

    async def list(self) -> Sequence[StoredRollout]:
        """Return the newest, newest first, at most `ROLLOUTS_SHOWN`."""
        ...

    async def begin(self, version: str, previous: str, *, actor: str, at: datetime) -> StoredRollout:
        """Register the version and begin; a version that has not passed its boot test begins with that.

        The one of that version that is under way is returned as it stands. Conflict `rollout_under_way`
        while another version's is, `version_runs` when there is nothing to do.
        """
        ...

    async def cancel(self, number: int, *, actor: str, at: datetime) -> StoredRollout:
        """Turn it round; twice is as good as once. NotFound, Conflict `rollout_over`."""
        ...

    async def version(self, name: str) -> Version | None:
        """Return what is known of a version."""
        ...

    async def proofs(self) -> Mapping[WorkerId, Proof]:
        """Return the proofs of all workers that are not gone, those of the version that they run."""
        ...

    async def save_proof(self, proof: Proof, *, term: int) -> None:
        """Write it down. StaleTerm."""
        ...

    async def wellness(self, workers: Sequence[WorkerId], *, since: timedelta) -> Mapping[WorkerId, Wellness]:
        """Return how what was begun on them has ended since then: creates and wakes; proofs are not in it."""
        ...
