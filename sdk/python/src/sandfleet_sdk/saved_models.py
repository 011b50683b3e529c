"""Typed values of what was saved: hibernations, checkpoints, forks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandfleet_sdk.errors import BadAnswer
from sandfleet_sdk.models import Sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Hibernation:
    """A sandbox that was saved; `status` is `hibernating` while that goes on."""

    sandbox_id: str
    status: str
    size_bytes: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Hibernation:
        """Read the answer of `…/hibernate`."""
        return cls(
            sandbox_id=str(body.get("sandboxID") or ""),
            status=str(body.get("status") or ""),
            size_bytes=int(body.get("sizeBytes") or 0),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A kept state of a sandbox: `processing`, `ready` or `failed`."""

    id: str
    sandbox_id: str
    name: str
    status: str
    size_bytes: int
    memory_mib: int
    created_at: datetime | None
    error: str | None
    uploaded: tuple[int, int] | None
    """While it is `processing`: bytes that are stored, and all bytes, as far as that is known."""
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Checkpoint:
        """Read a checkpoint."""
        if not body.get("id"):
            raise BadAnswer("the answer lacks 'id'")
        created = body.get("createdAt")
        return cls(
            id=str(body["id"]),
            sandbox_id=str(body.get("sandboxId") or ""),
            name=str(body.get("name") or ""),
            status=str(body.get("status") or ""),
            size_bytes=int(body.get("sizeBytes") or 0),
            memory_mib=int(body.get("memoryMB") or 0),
            created_at=datetime.fromisoformat(created) if isinstance(created, str) else None,
            error=body.get("errorMsg"),
            uploaded=_uploaded(body.get("upload")),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forks:
    """Sandboxes that were started from a running one, which stood still for `pause_ms`."""

    parent_id: str
    pause_ms: float
    sandboxes: Sequence[Sandbox]
    missing: Sequence[str]
    """Why each that could not be had is not there; only for a partial fork."""
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Forks:
        """Read the answer of `…/fork`."""
        return cls(
            parent_id=str(body.get("parentID") or ""),
            pause_ms=float(body.get("pauseMs") or 0),
            sandboxes=[Sandbox.parse(one) for one in body.get("sandboxes") or []],
            missing=[str(one.get("error") or "") for one in body.get("failed") or []],
            raw=body,
        )


def _uploaded(upload: Mapping[str, Any] | None) -> tuple[int, int] | None:
    return (int(upload["bytesDone"]), int(upload["bytesTotal"])) if upload else None
