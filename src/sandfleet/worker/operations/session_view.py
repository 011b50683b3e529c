"""A session as the API shows it, and how one is found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sandfleet.model.errors import NotFound
from sandfleet.ports.guest import ExecStatus, Guest
from sandfleet.wire.exec_request import valid_exec_id
from sandfleet.worker.residents import Resident


async def session(guest: Guest, exec_id: str, *, has_terminal: bool = False) -> ExecStatus:
    """Return how the session stands; a terminal is no session and a session no terminal."""
    kind = "terminal" if has_terminal else "session"
    try:
        status = await guest.exec_status(valid_exec_id(exec_id))
    except NotFound:
        raise NotFound(f"no {kind} {exec_id} in this sandbox") from None
    if status.has_terminal != has_terminal:
        raise NotFound(f"no {kind} {exec_id} in this sandbox")
    return status


def exit_code(status: ExecStatus) -> int:
    """Return the public exit code: -1 for what a signal or the time-out ended."""
    by_signal = status.timed_out or status.signal is not None
    return -1 if by_signal or status.exit_code is None else status.exit_code


def session_view(resident: Resident, status: ExecStatus) -> dict[str, Any]:
    """Return the public form."""
    view: dict[str, Any] = {
        "sessionID": status.exec_id,
        "sandboxID": resident.sandbox_id,
        "command": status.argv[0],
        "args": list(status.argv[1:]),
        "running": status.running,
        "startedAt": _time(status.started_at_s),
        "attachedClients": resident.sessions.count(status.exec_id),
        "outputBytes": status.output_bytes,
    }
    if not status.running:
        view["exitCode"] = exit_code(status)
        view["endedAt"] = _time(status.ended_at_s or status.started_at_s)
    return view


def _time(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
