"""Exec sessions and terminals, written once as flows; `attachments` carries their bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandfleet_sdk.calls import Call, Flow, path_of
from sandfleet_sdk.errors import BadAnswer
from sandfleet_sdk.sandboxes import idempotency, without_none

SHELL = "/bin/bash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A program that runs, or ran, in a sandbox. `exit_code` is None while it runs, -1 after a signal."""

    id: str
    sandbox_id: str
    command: str
    args: Sequence[str]
    running: bool
    exit_code: int | None
    started_at: datetime | None
    ended_at: datetime | None
    attached_clients: int
    output_bytes: int
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Session:
        """Read the session object of the API."""
        return cls(
            id=_session_id(body),
            sandbox_id=str(body.get("sandboxID") or ""),
            command=str(body.get("command") or ""),
            args=tuple(body.get("args") or ()),
            running=bool(body.get("running")),
            exit_code=body.get("exitCode"),
            started_at=_time(body.get("startedAt")),
            ended_at=_time(body.get("endedAt")),
            attached_clients=int(body.get("attachedClients") or 0),
            output_bytes=int(body.get("outputBytes") or 0),
            raw=body,
        )


def start(  # noqa: PLR0913 -- the fields of the API's session
    sandbox_id: str,
    command: str,
    *,
    args: Sequence[str] | None = None,
    envs: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout_s: int | None = None,
    max_run_after_disconnect_s: int | None = None,
) -> Flow[Session]:
    """Start a program, never wrapped in a shell. It runs on whether anybody attaches or not."""
    payload = without_none(
        cmd=command,
        args=list(args) if args is not None else None,
        envs=envs,
        cwd=cwd,
        timeout=timeout_s,
        maxRunAfterDisconnect=max_run_after_disconnect_s,
    )
    path = path_of("sandboxes", sandbox_id, "exec")
    answer = yield Call(method="POST", path=path, payload=payload, headers=idempotency())
    return Session.parse(answer.object())


def start_terminal(  # noqa: PLR0913 -- the fields of the API's terminal
    sandbox_id: str,
    *,
    shell: str = SHELL,
    args: Sequence[str] | None = None,
    envs: Mapping[str, str] | None = None,
    cwd: str | None = None,
    cols: int = 80,
    rows: int = 24,
) -> Flow[str]:
    """Start a shell, or another program, in a terminal; return its id."""
    payload = without_none(
        shell=shell,
        args=list(args) if args is not None else None,
        envs=envs,
        cwd=cwd,
        cols=cols,
        rows=rows,
    )
    path = path_of("sandboxes", sandbox_id, "pty")
    answer = yield Call(method="POST", path=path, payload=payload, headers=idempotency())
    return _session_id(answer.object())


def list_sessions(sandbox_id: str) -> Flow[list[Session]]:
    """Return the sessions of a sandbox, newest first; finished ones stay for ten minutes."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "exec"))
    return [Session.parse(one) for one in answer.array()]


def get(sandbox_id: str, session_id: str) -> Flow[Session]:
    """Return how a session stands."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "exec", session_id))
    return Session.parse(answer.object())


def get_terminal(sandbox_id: str, terminal_id: str) -> Flow[Session]:
    """Return how a terminal stands."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "pty", terminal_id))
    return Session.parse(answer.object())


def kill(sandbox_id: str, session_id: str, *, signal: int = 9) -> Flow[None]:
    """Signal a session; 9 ends everything it has started."""
    path = path_of("sandboxes", sandbox_id, "exec", session_id, "kill")
    yield Call(method="POST", path=path, payload={"signal": signal}, headers=idempotency())


def resize(sandbox_id: str, terminal_id: str, *, cols: int, rows: int) -> Flow[None]:
    """Tell a terminal its new size."""
    path = path_of("sandboxes", sandbox_id, "pty", terminal_id, "resize")
    yield Call(method="POST", path=path, payload={"cols": cols, "rows": rows}, headers=idempotency())


def end_terminal(sandbox_id: str, terminal_id: str) -> Flow[None]:
    """End a terminal and everything in it."""
    yield Call(method="DELETE", path=path_of("sandboxes", sandbox_id, "pty", terminal_id))


def _session_id(body: Mapping[str, Any]) -> str:
    value = body.get("sessionID")
    if not isinstance(value, str) or not value:
        raise BadAnswer("the answer lacks 'sessionID'. Is the URL that of a sandfleet server?")
    return value


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None
