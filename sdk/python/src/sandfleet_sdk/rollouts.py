"""Roll-outs of a new version of the workers: models and flows (scope `admin`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandfleet_sdk.calls import Call, Flow, path_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStep:
    """A stage that was reached, by whom and why."""

    stage: str
    at: str
    actor: str
    reason: str

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> RolloutStep:
        """Read an entry of `steps`."""
        return cls(**{name: str(body.get(name) or "") for name in ("stage", "at", "actor", "reason")})


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutWorker:
    """A worker as the roll-out sees it."""

    worker_id: str
    version: str
    state: str
    draining: bool
    sandboxes: int
    proven: bool

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> RolloutWorker:
        """Read an entry of `workers`."""
        return cls(
            worker_id=str(body.get("workerID") or ""),
            version=str(body.get("version") or ""),
            state=str(body.get("state") or ""),
            draining=bool(body.get("draining")),
            sandboxes=int(body.get("sandboxes") or 0),
            proven=bool(body.get("proven")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a roll-out stands: `boot_test`, `canary`, `fleet`, `done`, `turning_back` or `turned_back`."""

    number: int
    version: str
    previous: str
    stage: str
    under_way: bool
    reason: str
    said: str
    steps: Sequence[RolloutStep]
    workers: Sequence[RolloutWorker]
    """Of the newest roll-out alone."""
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Rollout:
        """Read the answer of `/admin/rollouts…`."""
        return cls(
            number=int(body.get("number") or 0),
            version=str(body.get("version") or ""),
            previous=str(body.get("previous") or ""),
            stage=str(body.get("stage") or ""),
            under_way=bool(body.get("underWay")),
            reason=str(body.get("reason") or ""),
            said=str(body.get("said") or ""),
            steps=tuple(RolloutStep.parse(one) for one in body.get("steps") or ()),
            workers=tuple(RolloutWorker.parse(one) for one in body.get("workers") or ()),
            raw=body,
        )


def begin_rollout(version: str) -> Flow[Rollout]:
    """Have a new version on all workers that the fleet launches; twice is as good as once."""
    answer = yield Call(method="POST", path=_path(), payload={"version": version})
    return Rollout.parse(answer.object())


def list_rollouts() -> Flow[list[Rollout]]:
    """Return the newest, newest first."""
    answer = yield Call(method="GET", path=_path())
    return [Rollout.parse(one) for one in answer.array()]


def show_rollout(number: int) -> Flow[Rollout]:
    """Return one; of the newest with all workers."""
    answer = yield Call(method="GET", path=_path(str(number)))
    return Rollout.parse(answer.object())


def cancel_rollout(number: int) -> Flow[Rollout]:
    """Turn it round; twice is as good as once."""
    answer = yield Call(method="POST", path=_path(str(number), "cancel"))
    return Rollout.parse(answer.object())


def _path(*parts: str) -> str:
    return "//" + path_of("admin", "rollouts", *parts).lstrip("/")
