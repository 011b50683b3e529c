"""Running commands in a sandbox, written once as flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sandfleet_sdk.calls import Call, Flow, Pause, path_of
from sandfleet_sdk.errors import api_error
from sandfleet_sdk.models import ExecProgress, ExecResult
from sandfleet_sdk.sandboxes import idempotency, without_none

OnOutput = Callable[[str], object]
_BYTES_PER_PAUSE_S = 4 * 1024 * 1024
"""The whole output so far comes with each poll: the more there is, the rarer it is asked for."""
_PAUSE_S_MAX = 5.0
_UNFINISHED = "\ufffd"
_UNFINISHED_MAX = 3
_EXTRA_WAIT_S = 180
"""What a command may take beyond its own time-out: waiting for the sandbox, and the last poll."""
_TIMEOUT_S_DEFAULT = 60
_POLLS_PER_S_MAX = 20
_RESULT_WAIT_S = 0.05


def _body(
    command: str,
    args: Sequence[str] | None,
    envs: Mapping[str, str] | None,
    cwd: str | None,
    timeout_s: int | None,
) -> dict[str, Any]:
    return without_none(
        cmd=command,
        args=list(args) if args is not None else None,
        envs=envs,
        cwd=cwd,
        timeout=timeout_s,
    )


def _result(body: Mapping[str, Any]) -> ExecResult:
    # An answer whose waiting time had to be padded carries its error in a body with status 200.
    if body.get("code") or body.get("error"):
        raise api_error(200, body)
    return ExecResult.parse(body)


def run(
    sandbox_id: str,
    command: str,
    *,
    args: Sequence[str] | None = None,
    envs: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout_s: int | None = None,
) -> Flow[ExecResult]:
    """Run a command to its end: with `args` as given, without them as a line of `/bin/sh`."""
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "exec", "run"),
        payload=_body(command, args, envs, cwd, timeout_s),
        headers=idempotency(),
        padded=True,
    )
    return _result(answer.object())


def run_async(
    sandbox_id: str,
    command: str,
    *,
    args: Sequence[str] | None = None,
    envs: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout_s: int | None = None,
) -> Flow[ExecProgress]:
    """Begin a command; a quick one (400 ms) comes back with its result, another with its `exec_id`."""
    answer = yield Call(
        method="POST",
        path=path_of("sandboxes", sandbox_id, "exec", "run-async"),
        payload=_body(command, args, envs, cwd, timeout_s),
        headers=idempotency(),
    )
    body = answer.object()
    if "execId" in body:
        return ExecProgress(exec_id=str(body["execId"]), stdout="", stderr="", result=None)
    done = _result(body)
    return ExecProgress(exec_id=None, stdout=done.stdout, stderr=done.stderr, result=done)


def result(sandbox_id: str, exec_id: str) -> Flow[ExecProgress]:
    """Return a begun command's output so far; waits up to half a second for its end."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "exec", exec_id, "result"))
    body = answer.object()
    done = None if body.get("running") else _result(body)
    return ExecProgress(
        exec_id=exec_id,
        stdout=str(body.get("stdout") or ""),
        stderr=str(body.get("stderr") or ""),
        result=done,
    )


def stream(  # noqa: PLR0913 -- the fields of the API's exec, and where its output goes
    sandbox_id: str,
    command: str,
    *,
    args: Sequence[str] | None = None,
    envs: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout_s: int | None = None,
    on_stdout: OnOutput | None = None,
    on_stderr: OnOutput | None = None,
) -> Flow[ExecResult]:
    """Run a command and hand its output out while it runs; returns how it ended."""
    progress = yield from run_async(sandbox_id, command, args=args, envs=envs, cwd=cwd, timeout_s=timeout_s)
    outputs = (_Fresh(on_stdout), _Fresh(on_stderr))
    polls_max = ((timeout_s or _TIMEOUT_S_DEFAULT) + _EXTRA_WAIT_S) * _POLLS_PER_S_MAX
    for _ in range(polls_max):
        outputs[0].take(progress.stdout, is_last=progress.result is not None)
        outputs[1].take(progress.stderr, is_last=progress.result is not None)
        if progress.result is not None or progress.exec_id is None:
            break
        yield Pause(_pause_s(progress))
        progress = yield from result(sandbox_id, progress.exec_id)
    if progress.result is None:
        raise api_error(504, {"error": "the command did not end in its time", "code": "agent_unresponsive"})
    return progress.result


def _pause_s(progress: ExecProgress) -> float:
    size = len(progress.stdout) + len(progress.stderr)
    return max(_RESULT_WAIT_S, min(_PAUSE_S_MAX, size / _BYTES_PER_PAUSE_S))


class _Fresh:
    """Hands out what is new of a growing text."""

    def __init__(self, receiver: OnOutput | None) -> None:
        self._receiver = receiver
        self._given = 0

    def take(self, text: str, *, is_last: bool) -> None:
        """Give the receiver the new part; the half of a character at its end waits for the other half."""
        end = len(text)
        while not is_last and end > self._given and len(text) - end < _UNFINISHED_MAX:
            if text[end - 1] != _UNFINISHED:
                break
            end -= 1
        if self._receiver is not None and end > self._given:
            self._receiver(text[self._given : end])
        self._given = max(self._given, end)
