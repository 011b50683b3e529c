"""Draining workers: models and flows (scope `admin`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandfleet_sdk.calls import Call, Flow, path_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A sandbox that is on a draining worker still; `why` is `moving`, `waiting`, `saving` or `held`."""

    sandbox_id: str
    why: str
    reason: str
    target_worker: str | None
    attempts: int

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Stay:
        """Read an entry of `sandboxes`."""
        return cls(
            sandbox_id=str(body.get("sandboxID") or ""),
            why=str(body.get("why") or ""),
            reason=str(body.get("reason") or ""),
            target_worker=body.get("targetWorker"),
            attempts=int(body.get("attempts") or 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How a worker's drain stands: `none`, `draining`, `stuck` after its deadline, or `drained`."""

    worker_id: str
    state: str
    moved: int
    slept: int
    """How many were put to sleep because nobody could take them in time."""
    deadline_at: str | None
    reason: str
    stays: Sequence[Stay]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Drain:
        """Read the answer of `…/drain`."""
        return cls(
            worker_id=str(body.get("workerID") or ""),
            state=str(body.get("state") or ""),
            moved=int(body.get("moved") or 0),
            slept=int(body.get("slept") or 0),
            deadline_at=body.get("deadlineAt"),
            reason=str(body.get("reason") or ""),
            stays=tuple(Stay.parse(one) for one in body.get("sandboxes") or ()),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Who leaves a worker now: sandbox and where it goes; `stays` says of the others why they do not."""

    worker_id: str
    evicted: Sequence[tuple[str, str]]
    remaining: int
    stays: Sequence[Stay]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Eviction:
        """Read the answer of `…/evict`."""
        gone = body.get("evicted") or ()
        return cls(
            worker_id=str(body.get("workerID") or ""),
            evicted=tuple((str(one.get("sandboxID") or ""), str(one.get("to") or "")) for one in gone),
            remaining=int(body.get("remaining") or 0),
            stays=tuple(Stay.parse(one) for one in body.get("sandboxes") or ()),
            raw=body,
        )


def begin_drain(
    worker_id: str,
    *,
    deadline_s: float | None = None,
    reason: str | None = None,
    hibernate: bool | None = None,
) -> Flow[Drain]:
    """Have all sandboxes leave a worker, in the background; twice is as good as once."""
    given = {
        "deadline_s": None if deadline_s is None else str(deadline_s),
        "reason": reason,
        "hibernate": None if hibernate is None else str(hibernate).lower(),
    }
    query = {name: value for name, value in given.items() if value is not None}
    answer = yield Call(method="POST", path=_path(worker_id, "drain"), query=query)
    return Drain.parse(answer.object())


def undo_drain(worker_id: str) -> Flow[Drain]:
    """Let a worker take sandboxes again."""
    answer = yield Call(method="POST", path=_path(worker_id, "undrain"))
    return Drain.parse(answer.object())


def show_drain(worker_id: str) -> Flow[Drain]:
    """Return how far it is, and why each sandbox is there still."""
    answer = yield Call(method="GET", path=_path(worker_id, "drain"))
    return Drain.parse(answer.object())


def evict(worker_id: str) -> Flow[Eviction]:
    """Move as many sandboxes away from a worker as others have room for, now; the rest stays."""
    answer = yield Call(method="POST", path=_path(worker_id, "evict"))
    return Eviction.parse(answer.object())


def _path(worker_id: str, verb: str) -> str:
    return "//" + path_of("admin", "workers", worker_id, verb).lstrip("/")
