"""A placement as it is kept: what was asked for, and what was said of every worker that there was.

It lies in the transition log, in the row of the placement: whoever asks later why a sandbox is where it is
gets the decision, not a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sandfleet.model.ids import WorkerId
from sandfleet.model.sandbox import Sandbox
from sandfleet.planning.placement import Candidate

KEY = "placement"
CANDIDATES_KEPT = 200
"""Of a larger fleet those that came next are kept, and how many were not."""


def placement_detail(
    sandbox: Sandbox, candidates: Sequence[Candidate], *, chosen: WorkerId, cause: str
) -> dict[str, Any]:
    """Return what the row of a placement says of its decision, as JSON has it."""
    kept = _nearest(candidates, chosen=chosen)
    return {
        KEY: {
            "cause": cause,
            "request": {
                "memory_mib": sandbox.resources.memory_mib,
                "cpu_count": sandbox.resources.cpu_count,
                "disk_mib": sandbox.resources.disk_mib,
                "region": sandbox.region,
                "template": sandbox.template,
            },
            "candidates": [[one.worker_id, one.score, one.refused_by, one.reason] for one in kept],
            "left_out": len(candidates) - len(kept),
        }
    }


def recorded_candidates(record: Mapping[str, Any]) -> Sequence[Candidate]:
    """Return what `placement_detail` kept of the workers."""
    return [
        Candidate(WorkerId(worker_id), score=score, refused_by=refused_by, reason=reason)
        for worker_id, score, refused_by, reason in record["candidates"]
    ]


def _nearest(candidates: Sequence[Candidate], *, chosen: WorkerId) -> Sequence[Candidate]:
    if len(candidates) <= CANDIDATES_KEPT:
        return candidates
    ranked = sorted(
        candidates,
        key=lambda one: (one.worker_id != chosen, one.score is None, -(one.score or 0.0), one.worker_id),
    )
    return sorted(ranked[:CANDIDATES_KEPT], key=lambda one: one.worker_id)
