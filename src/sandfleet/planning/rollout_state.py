"""The durable state of a roll-out: how it begins, how it is called off, and what each stage means.

`boot_test -> canary -> fleet -> done`; from each of the first three `-> turning_back -> turned_back`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any


class RolloutStage(StrEnum):
    """`turning_back` replaces the new ones by the old version; `done` and `turned_back` are its ends."""

    BOOT_TEST = "boot_test"
    CANARY = "canary"
    FLEET = "fleet"
    DONE = "done"
    TURNING_BACK = "turning_back"
    TURNED_BACK = "turned_back"


_BACK = (RolloutStage.TURNING_BACK, RolloutStage.TURNED_BACK)
_ENDS = (RolloutStage.DONE, RolloutStage.TURNED_BACK)


@dataclass(frozen=True, slots=True)
class Rollout:
    """The durable state."""

    version: str
    previous: str
    stage: RolloutStage
    begun_at: datetime
    stage_at: datetime
    reason: str = ""
    """Why it turned round."""
    interrupted_at: datetime | None = None
    """When a canary that had proven itself was last seen not to be well."""

    @property
    def target(self) -> str:
        """The version that all workers shall have in the end."""
        return self.previous if self.stage in _BACK else self.version

    @property
    def base_version(self) -> str:
        """What a machine boots that is launched for demand."""
        is_trial = self.stage in (RolloutStage.BOOT_TEST, RolloutStage.CANARY)
        return self.previous if is_trial else self.target

    @property
    def is_under_way(self) -> bool:
        """Whether there is something to do."""
        return self.stage not in _ENDS

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "version": self.version,
            "previous": self.previous,
            "stage": self.stage.value,
            "begun_at": self.begun_at.isoformat(),
            "stage_at": self.stage_at.isoformat(),
            "reason": self.reason,
            "interrupted_at": self.interrupted_at.isoformat() if self.interrupted_at else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rollout:
        """Return what `to_json` wrote, also before it wrote of interruptions."""
        interrupted = value.get("interrupted_at")
        return cls(
            version=value["version"],
            previous=value["previous"],
            stage=RolloutStage(value["stage"]),
            begun_at=datetime.fromisoformat(value["begun_at"]),
            stage_at=datetime.fromisoformat(value["stage_at"]),
            reason=value["reason"],
            interrupted_at=datetime.fromisoformat(interrupted) if interrupted else None,
        )


def begin_rollout(version: str, previous: str, *, is_boot_tested: bool, now: datetime) -> Rollout | str:
    """Return the first state, or say why this version does not begin; what was not tested is tested first."""
    if not previous:
        return "no worker has reported yet, so nobody knows which version to go back to"
    if version == previous:
        return f"the fleet runs version {version} already"
    stage = RolloutStage.CANARY if is_boot_tested else RolloutStage.BOOT_TEST
    return Rollout(version, previous, stage, now, now)


def cancel_rollout(rollout: Rollout, *, by: str, now: datetime) -> Rollout | str:
    """Return the state of one that was called off, or say why it cannot be."""
    if not rollout.is_under_way:
        return f"the roll-out of version {rollout.version} has ended: {rollout.stage}"
    if rollout.stage is RolloutStage.TURNING_BACK:
        return rollout
    return replace(rollout, stage=RolloutStage.TURNING_BACK, stage_at=now, reason=f"called off by {by}")
