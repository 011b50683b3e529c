"""Bodies of drains."""

from __future__ import annotations

from pydantic import Field

from sandfleet.wire.public_api import AnswerBody, Time


class StayBody(AnswerBody):
    """A sandbox that is on the worker still. `why`: `moving`, `waiting` for its turn, `saving`, or `held`."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    why: str
    reason: str
    target_worker: str | None = None
    attempts: int = 0
    retry_at: Time | None = None


class DrainBody(AnswerBody):
    """How a drain stands. `state`: `none`, `draining`, `stuck` after its deadline, `drained` when empty."""

    worker_id: str = Field(serialization_alias="workerID")
    draining: bool
    state: str
    moved: int = 0
    slept: int = 0
    remaining: int = 0
    begun_at: Time | None = None
    drained_at: Time | None = None
    deadline_at: Time | None = None
    """When it is to be empty; what has not moved shortly before is put to sleep."""
    stuck_at: Time | None = None
    """Since when its deadline is over and something is there still."""
    hibernates: bool | None = None
    """Whether sandboxes may be put to sleep for it."""
    requested_by: str | None = None
    owner: str | None = None
    """`operator`, or who began it else: `capacity`, `rollout`, or `notice` of its host's end."""
    reason: str | None = None
    sandboxes: list[StayBody] = Field(default_factory=list)


class EvictedBody(AnswerBody):
    """A sandbox that has begun to move."""

    sandbox_id: str = Field(serialization_alias="sandboxID")
    to: str
    reason: str


class EvictionBody(AnswerBody):
    """Who leaves a worker now; `remaining` sandboxes stay, and each says why."""

    worker_id: str = Field(serialization_alias="workerID")
    evicted: list[EvictedBody]
    remaining: int
    sandboxes: list[StayBody] = Field(default_factory=list)
