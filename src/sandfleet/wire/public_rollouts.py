"""Bodies of roll-outs."""

from __future__ import annotations

from pydantic import Field

from sandfleet.wire.public_api import AnswerBody, RequestBody, Time


class BeginRollout(RequestBody):
    """Which version all workers that the fleet launches shall have."""

    version: str | None = None


class RolloutStepBody(AnswerBody):
    """A stage that was reached, by whom and why."""

    stage: str
    at: Time
    actor: str
    reason: str


class RolloutWorkerBody(AnswerBody):
    """A worker as the roll-out sees it."""

    worker_id: str = Field(serialization_alias="workerID")
    version: str
    state: str
    draining: bool
    sandboxes: int
    proven: bool
    """Whether it has run a sandbox of the fleet's own."""
    trials_failed: int = 0
    said: str = ""


class RolloutBody(AnswerBody):
    """How a roll-out stands.

    `stage`: `boot_test`, `canary`, `fleet`, `done`, `turning_back` or `turned_back`.
    """

    number: int
    version: str
    previous: str
    stage: str
    under_way: bool
    reason: str
    """Why it turned round."""
    said: str
    """What it waits for, or did last."""
    requested_by: str
    begun_at: Time
    stage_at: Time
    steps: list[RolloutStepBody] = Field(default_factory=list)
    workers: list[RolloutWorkerBody] | None = None
    """Of the newest roll-out: all workers that are not gone."""
