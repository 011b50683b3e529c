"""A machine that is to become a worker: what sizes there are, and what has become of each launch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

from sandfleet.model.ids import WorkerId
from sandfleet.model.resources import Resources

LaunchId = NewType("LaunchId", str)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def is_version(text: str) -> bool:
    """Whether a version may be called so: it names a file here, and is a tag elsewhere."""
    return _VERSION.fullmatch(text) is not None


class LaunchState(StrEnum):
    """`pending` until a worker of it has joined, or it is known that none will."""

    PENDING = "pending"
    JOINED = "joined"
    FAILED = "failed"


class LaunchFailure(StrEnum):
    """Why a machine pool gave no machine, by what to do about it."""

    QUOTA = "quota"
    """The account may have no more: for long."""
    STOCKOUT = "stockout"
    """The pool has none of this size now."""
    THROTTLED = "throttled"
    """The pool is asked too often; this concerns all its sizes."""
    UNREACHABLE = "unreachable"
    """The pool does not answer; this concerns all its sizes."""
    BROKEN = "broken"
    """The machine came and never joined, or the call failed in an unknown way."""


@dataclass(frozen=True, slots=True)
class MachineSize:
    """One size of machine in one pool, as what a worker on it can promise."""

    pool: str
    name: str
    resources: Resources
    region: str = "local"
    price_per_hour: float = 0.0
    boot_s: float = 120.0
    """From the launch to the worker's first heartbeat, until it has been measured."""
    accelerator: str = ""
    cpu_model: str = ""

    @property
    def key(self) -> str:
        """The name of the size in all pools."""
        return f"{self.pool}/{self.name}"


@dataclass(frozen=True, slots=True)
class Launch:
    """One machine that was asked for. Its id is fixed before the pool is asked.

    It owns its machine until the pool has said that the machine is gone: `gone_at`.
    """

    id: LaunchId
    size: str
    """The key of its size."""
    version: str
    """The version of the worker's image that it boots."""
    requested_at: datetime
    state: LaunchState = LaunchState.PENDING
    ended_at: datetime | None = None
    failure: LaunchFailure | None = None
    reason: str = ""
    """Why it was asked for."""
    said: str = ""
    """What was said of its failure."""
    machine_id: str | None = None
    """What the pool calls its machine, once it has said so."""
    worker_id: WorkerId | None = None
    """The worker that has joined from it."""
    ending_since: datetime | None = None
    """Since when its machine, if there is one, is to end."""
    gone_at: datetime | None = None
    """When the pool said that there is no machine of it any more."""

    @property
    def pool(self) -> str:
        """The name of the pool that was asked."""
        return self.size.partition("/")[0]

    @property
    def machine_names(self) -> frozenset[str]:
        """What a worker may call its machine: as the pool does, or as the launch."""
        return frozenset(name for name in (self.id, self.machine_id) if name is not None)

    def owns(self, machine_id: str, launch_id: LaunchId | None) -> bool:
        """Whether a machine of that name and tag is this launch's, as far as it is known."""
        is_mine = launch_id == self.id if self.machine_id is None else machine_id == self.machine_id
        return self.gone_at is None and is_mine

    @property
    def is_ending(self) -> bool:
        """Whether its machine is to end, and may still be there."""
        return self.ending_since is not None and self.gone_at is None
