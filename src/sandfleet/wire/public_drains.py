"""Bodies of drains."""

from __future__ import annotations

from pydantic import Field

from sandfleet.wire.public_api import AnswerBody, Time


class StayBody(AnswerBody):
    """A sandbox that is on the worker still. `why`: `moving`, `waiting` for its turn, or `held`."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    why: str
    reason: str
    target_worker: str | None = None
    attempts: int = 0
    retry_at: Time | None = None


class DrainBody(AnswerBody):
    """How a worker's drain stands. `state`: `none`, `draining`, or `drained` when nothing is left there."""

    worker_id: str = Field(serialization_alias="workerID")
    draining: bool
    state: str
    moved: int = 0
    remaining: int = 0
    begun_at: Time | None = None
    drained_at: Time | None = None
    requested_by: str | None = None
    owner: str | None = None
    """`operator`, or the loop that began it: `capacity` or `rollout`."""
    reason: str | None = None
    sandboxes: list[StayBody] = Field(default_factory=list)
