"""What the API returns, as typed values. `raw` keeps every field as it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandfleet_sdk.errors import BadAnswer


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise BadAnswer(f"the answer lacks {key!r}. Is the URL that of a sandfleet server?")
    return value


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox: one virtual machine with its identity."""

    id: str
    status: str
    template: str
    worker_id: str | None
    region: str | None
    cpu_count: int
    memory_mib: int
    disk_mib: int
    timeout_s: int
    alias: str | None
    metadata: Mapping[str, str]
    started_at: datetime | None
    stopped_at: datetime | None
    error: str | None
    stop_reason: str | None
    token: str = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Sandbox:
        """Read the sandbox object of the API."""
        return cls(
            id=_text(body, "sandboxID"),
            status=_text(body, "status"),
            template=str(body.get("templateID") or ""),
            worker_id=body.get("workerID"),
            region=body.get("region"),
            cpu_count=int(body.get("cpuCount") or 0),
            memory_mib=int(body.get("memoryMB") or 0),
            disk_mib=int(body.get("diskMB") or 0),
            timeout_s=int(body.get("timeout") or 0),
            alias=body.get("alias"),
            metadata=body.get("metadata") or {},
            started_at=_time(body.get("startedAt")),
            stopped_at=_time(body.get("stoppedAt")),
            error=body.get("errorMsg"),
            stop_reason=body.get("stopReason"),
            token=str(body.get("token") or ""),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """How a command ended. `exit_code` is -1 when a signal or the time-out ended it."""

    exit_code: int
    stdout: str
    stderr: str
    signal: int | str | None = None
    timed_out: bool = False
    truncated: bool = False

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> ExecResult:
        """Read the answer of `exec/run`."""
        if "exitCode" not in body:
            raise BadAnswer("the answer lacks 'exitCode'")
        return cls(
            exit_code=int(body["exitCode"]),
            stdout=str(body.get("stdout") or ""),
            stderr=str(body.get("stderr") or ""),
            signal=body.get("signal"),
            timed_out=bool(body.get("timedOut")),
            truncated=bool(body.get("truncated")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecProgress:
    """A command begun without waiting for its end: its output so far, and its result once it has ended."""

    exec_id: str | None
    stdout: str
    stderr: str
    result: ExecResult | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One entry of a directory in a sandbox."""

    name: str
    path: str
    is_directory: bool
    size: int
    mode: str | None = None
    modified_at: datetime | None = None

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> FileEntry:
        """Read one entry of `files/list`."""
        mode = body.get("mode")
        return cls(
            name=_text(body, "name"),
            path=_text(body, "path"),
            is_directory=bool(body.get("isDir")),
            size=int(body.get("size") or 0),
            mode=f"{mode:04o}" if isinstance(mode, int) else mode,
            modified_at=_time(body.get("mtime")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A credential. `key` itself is only there in the answer that created it."""

    id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime | None
    key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> ApiKey:
        """Read a key's object."""
        return cls(
            id=_text(body, "id"),
            name=str(body.get("name") or ""),
            prefix=str(body.get("prefix") or ""),
            scopes=tuple(body.get("scopes") or ()),
            created_at=_time(body.get("createdAt")),
            key=body.get("key"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """A tenant; `raw` has its quotas, its caps, and what of them is used."""

    id: str
    name: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Organisation:
        """Read an organisation's object."""
        return cls(id=_text(body, "id"), name=str(body.get("name") or ""), raw=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A host of the fleet."""

    id: str
    state: str
    region: str
    sandboxes: int
    memory_total_mib: int
    memory_committed_mib: int
    draining: bool
    version: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Worker:
        """Read an entry of `/api/workers`."""
        return cls(
            id=_text(body, "worker_id"),
            state=str(body.get("state") or ""),
            region=str(body.get("region") or ""),
            sandboxes=int(body.get("current") or 0),
            memory_total_mib=int(body.get("total_memory_mb") or 0),
            memory_committed_mib=int(body.get("committed_memory_mb") or 0),
            draining=bool(body.get("draining")),
            version=str(body.get("worker_version") or ""),
            raw=body,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of a log; of the whole fleet's, `raw` has what is not here: `type`, `sandbox`, `about` …"""

    id: str
    at: datetime | None
    event: str
    before: str | None
    after: str | None
    actor: str
    reason: str | None
    worker_id: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Event:
        """Read an entry of `…/events`."""
        return cls(
            id=str(body.get("id")),
            at=_time(body.get("at")),
            event=str(body.get("event") or ""),
            before=body.get("from"),
            after=body.get("to"),
            actor=str(body.get("actor") or ""),
            reason=body.get("reason"),
            worker_id=body.get("workerId") or body.get("worker"),
            raw=body,
        )
