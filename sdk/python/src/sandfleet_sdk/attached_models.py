"""Typed values of what hangs on a sandbox: stats, tags, sizes, signed URLs, previews."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandfleet_sdk.errors import BadAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a sandbox uses: percent of one core, and bytes."""

    status: str
    cpu_percent: float
    memory_used_bytes: int
    memory_limit_bytes: int
    net_input_bytes: int
    net_output_bytes: int
    processes: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Stats:
        """Read the answer of `…/stats`."""
        return cls(
            status=str(body.get("status") or ""),
            cpu_percent=float(body.get("cpuPercent") or 0),
            memory_used_bytes=int(body.get("memUsage") or 0),
            memory_limit_bytes=int(body.get("memLimit") or 0),
            net_input_bytes=int(body.get("netInput") or 0),
            net_output_bytes=int(body.get("netOutput") or 0),
            processes=int(body.get("pids") or 0),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """The tags of a sandbox."""

    values: Mapping[str, str]
    changed_at: datetime | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Tags:
        """Read the answer of `…/tags`."""
        return cls(values=body.get("tags") or {}, changed_at=_time(body.get("tagsLastUpdatedAt")))


@dataclass(frozen=True, slots=True, kw_only=True)
class TagUse:
    """A tag key of the organisation."""

    key: str
    sandboxes: int
    values: int

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> TagUse:
        """Read an entry of `/tags`."""
        return cls(
            key=str(body.get("key") or ""),
            sandboxes=int(body.get("sandboxCount") or 0),
            values=int(body.get("valueCount") or 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a sandbox has after a change of size; `pending` while the guest has not got there yet."""

    memory_mib: int
    cpu_percent: int
    pending: bool
    autoscale_disabled: bool
    """Whether the memory followed the use until now, and does so no more."""
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Size:
        """Read the answer of `…/limits` and `…/scale`."""
        return cls(
            memory_mib=int(body.get("memoryMB") or 0),
            cpu_percent=int(body.get("cpuPercent") or 0),
            pending=bool(body.get("pending")),
            autoscale_disabled=bool(body.get("autoscaleDisabled")),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A sandbox that was moved; `downtime_ms` is for how long it stood still."""

    source_worker: str
    target_worker: str
    elapsed_ms: int
    downtime_ms: int
    pending: bool
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Migration:
        """Read the answer of `POST …/migrate`."""
        return cls(
            source_worker=str(body.get("sourceWorker") or ""),
            target_worker=str(body.get("targetWorker") or ""),
            elapsed_ms=int(body.get("elapsedMs") or 0),
            downtime_ms=int(body.get("downtimeMs") or 0),
            pending=bool(body.get("pending")),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationProgress:
    """How a move under way stands."""

    step: str
    phase: str
    way: str
    round: int
    transferred_bytes: int
    remaining_bytes: int
    said: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> MigrationProgress:
        """Read the answer of `GET …/migrate`."""
        return cls(
            step=str(body.get("step") or ""),
            phase=str(body.get("phase") or ""),
            way=str(body.get("way") or ""),
            round=int(body.get("round") or 0),
            transferred_bytes=int(body.get("transferredBytes") or 0),
            remaining_bytes=int(body.get("remainingBytes") or 0),
            said=str(body.get("said") or ""),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedUrl:
    """A URL that needs no key until `expires_at`."""

    url: str = field(repr=False)
    expires_at: datetime | None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> SignedUrl:
        """Read the answer of `…/download-url` and `…/upload-url`."""
        if not isinstance(body.get("url"), str):
            raise BadAnswer("the answer lacks 'url'")
        return cls(url=str(body["url"]), expires_at=_time(body.get("expiresAt")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A guest port with a host name."""

    id: str
    port: int
    hostname: str
    created_at: datetime | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Preview:
        """Read a preview record."""
        return cls(
            id=str(body.get("id") or ""),
            port=int(body.get("port") or 0),
            hostname=str(body.get("hostname") or ""),
            created_at=_time(body.get("createdAt")),
            raw=body,
        )


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
