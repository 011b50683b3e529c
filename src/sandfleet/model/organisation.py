"""An organisation (tenant), its quotas, and its API keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sandfleet.model.ids import KeyId, OrganisationId
from sandfleet.model.resources import Resources

CREATES_PER_SECOND = "createsPerSecond"


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
    creates_per_s: int | None = None
    """How fast sandboxes may be created; counted outside the transactions that count the others."""


@dataclass(frozen=True, slots=True)
class Excess:
    """The quota that a request would exceed."""

    quota: str
    limit: int
    used: int


def first_excess(quotas: Quotas, used: Quotas, wanted: Resources) -> Excess | None:
    """Return the first quota that one more sandbox of that size would exceed; the one admission rule.

    Of what nothing more is wanted, nothing is too much: a quota that was lowered below what is in use
    keeps a sandbox from growing in that respect, and in no other.
    """
    checks = (
        ("sandboxes", quotas.sandboxes, used.sandboxes, 1),
        ("vcpu", quotas.vcpu, used.vcpu, wanted.cpu_count),
        ("memoryMB", quotas.memory_mib, used.memory_mib, wanted.memory_mib),
        ("diskMB", quotas.disk_mib, used.disk_mib, wanted.disk_mib),
    )
    for name, limit, in_use, more in checks:
        if limit is not None and more > 0 and (in_use or 0) + more > limit:
            return Excess(quota=name, limit=limit, used=in_use or 0)
    return None


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
