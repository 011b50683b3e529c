"""Bodies of the whole transition log, for operators."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sandfleet.wire.public_api import AnswerBody, Time


class LogRowBody(AnswerBody):
    """One row: what happened, to whom, by whom and why."""

    id: int
    at: Time
    time: str
    """`HH:MM:SS` in UTC."""
    type: str
    event: str
    sandbox: str | None
    worker: str | None
    detail: str
    """The event and its reason in one line."""
    about: dict[str, Any] = Field(default_factory=dict)
    """What it is about beside those: `launch`, `size`, `version`, `machine`, `rollout`, `term` …"""
    org: str | None
    before: str | None = Field(serialization_alias="from")
    after: str | None = Field(serialization_alias="to")
    actor: str
    reason: str
    epoch: int
    operation_id: str | None


class ClearedBody(AnswerBody):
    """History begins behind this row from now on; nothing was deleted."""

    status: str = "cleared"
    after: int = 0
