"""An organisation (tenant), its quotas, and its API keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sandfleet.model.ids import KeyId, OrganisationId


class Scope(StrEnum):
    """What an API key may do."""

    ORG = "org"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Quotas:
    """Upper bounds over all sandboxes of one organisation; None means no bound."""

    sandboxes: int | None = None
    vcpu: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Caps:
    """Upper bounds for one sandbox of the organisation; None means no bound."""

    memory_mib: int | None = None
    disk_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Organisation:
    """A tenant."""

    id: OrganisationId
    name: str
    quotas: Quotas
    caps: Caps
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key: the secret itself is never kept, only its SHA-256."""

    id: KeyId
    organisation_id: OrganisationId
    name: str
    prefix: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None
