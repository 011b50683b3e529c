"""Why sandboxes are where they are, and what the planners would do: models and flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandfleet_sdk.calls import Call, Flow, path_of
from sandfleet_sdk.sandboxes import without_none


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker that there was at a placement: its score, or the filter that refused it."""

    worker_id: str
    chosen: bool
    score: float | None
    refused_by: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a sandbox is and why. `candidates` is None without the scope `admin`."""

    sandbox_id: str
    worker_id: str | None
    cause: str | None
    reason: str | None
    candidates: Sequence[Candidate] | None
    history: Sequence[Mapping[str, Any]]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Placement:
        """Read the answer of `…/placement`."""
        given = body.get("candidates")
        return cls(
            sandbox_id=str(body.get("sandboxId") or ""),
            worker_id=body.get("workerId"),
            cause=body.get("cause"),
            reason=body.get("reason"),
            candidates=None if given is None else tuple(_candidate(one) for one in given),
            history=tuple(body.get("history") or ()),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One command of a plan."""

    command: str
    subject: str
    to: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Who was passed over, by which filter, and why."""

    subject: str
    worker_id: str | None
    filter: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the planners would do now."""

    summary: str
    decisions: Sequence[Decision]
    rejected: Sequence[Rejection]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Plan:
        """Read the answer of `/admin/plan`."""
        return cls(
            summary=str(body.get("summary") or ""),
            decisions=tuple(
                Decision(
                    command=str(one.get("command") or ""),
                    subject=str(one.get("subject") or ""),
                    to=one.get("to"),
                    reason=str(one.get("reason") or ""),
                )
                for one in body.get("decisions") or ()
            ),
            rejected=tuple(
                Rejection(
                    subject=str(one.get("subject") or ""),
                    worker_id=one.get("workerId"),
                    filter=str(one.get("filter") or ""),
                    reason=str(one.get("reason") or ""),
                )
                for one in body.get("rejected") or ()
            ),
            raw=body,
        )


def placement(sandbox_id: str) -> Flow[Placement]:
    """Return why a sandbox is where it is, and where it was before."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "placement"))
    return Placement.parse(answer.object())


def plan(
    kind: str,
    *,
    request: Mapping[str, Any] | None = None,
    changes: Sequence[Mapping[str, Any]] | None = None,
    at: str | None = None,
    view: Mapping[str, Any] | None = None,
) -> Flow[Plan]:
    """Return what the planners would do, on the fleet as it is or with `changes`; nothing is done.

    `view` describes a whole fleet in place of the one that is there.
    """
    payload = without_none(
        kind=kind,
        request=None if request is None else dict(request),
        changes=None if changes is None else [dict(one) for one in changes],
        at=at,
        view=None if view is None else dict(view),
    )
    answer = yield Call(method="POST", path="//admin/plan", payload=payload)
    return Plan.parse(answer.object())


def _candidate(body: Mapping[str, Any]) -> Candidate:
    return Candidate(
        worker_id=str(body.get("workerId") or ""),
        chosen=bool(body.get("chosen")),
        score=body.get("score"),
        refused_by=body.get("refusedBy"),
        reason=str(body.get("reason") or ""),
    )
