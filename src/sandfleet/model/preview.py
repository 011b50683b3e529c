"""A preview record: that somebody wants a guest port to be seen from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandfleet.model.ids import OrganisationId, SandboxId


@dataclass(frozen=True, slots=True)
class Preview:
    """One port of one sandbox. Its host name follows from both."""

    id: str
    organisation_id: OrganisationId
    sandbox_id: SandboxId
    port: int
    created_at: datetime
    custom_hostname: str | None = None
    auth_config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TagUse:
    """One tag key: how many sandboxes carry it, with how many different values."""

    key: str
    sandbox_count: int
    value_count: int
