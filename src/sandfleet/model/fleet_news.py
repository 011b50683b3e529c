"""Something that is to be known of the fleet and changes no row: it stands in the transition log alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandfleet.model.ids import WorkerId


@dataclass(frozen=True, slots=True)
class FleetNews:
    """One line of it; `detail` names what it is about, where that is no worker."""

    event: str
    reason: str
    worker_id: WorkerId | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def elected(term: int) -> FleetNews:
    """Return what the log tells of an election."""
    return FleetNews("elected", f"term {term} begins", detail={"term": term})
