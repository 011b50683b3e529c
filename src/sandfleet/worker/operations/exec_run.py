"""POST exec/run: run one command and answer with its result."""

from __future__ import annotations

import os
from typing import Any

from starlette.responses import Response

from sandfleet.model import ids
from sandfleet.ports.guest import ExecOrder
from sandfleet.wire.exec_request import parse_exec_request, valid_exec_id
from sandfleet.wire.worker_messages import EXEC_ID_HEADER
from sandfleet.worker.call import Call, json_answer
from sandfleet.worker.executions import Execution, ExecView
from sandfleet.worker.operations.follow_exec import start_followed

TIMED_OUT = "\nProcess timed out"


async def exec_run(call: Call) -> Response:
    """Wait for the command's end. The client may leave: the command goes on, and so does this."""
    execution = await begin(call)
    await execution.ended()
    return json_answer(result_body(execution.view()))


async def begin(call: Call) -> Execution:
    """Start the exec of the request under its id, or join it."""
    request = parse_exec_request(await call.body(), timeout_default_s=call.host.limits.exec_timeout_default_s)
    given = call.request.headers.get(EXEC_ID_HEADER)
    order = ExecOrder(
        exec_id=valid_exec_id(given) if given is not None else ids.exec_id(os.urandom(ids.ID_BYTES)),
        argv=request.argv,
        envs=request.envs,
        cwd=request.cwd,
        timeout_s=request.timeout_s,
    )
    return await start_followed(call.host.background, call.resident, call.guest, order)


def result_body(view: ExecView) -> dict[str, Any]:
    """Return the public result of an exec that has ended."""
    status = view.status
    by_signal = status.timed_out or status.signal is not None
    body: dict[str, Any] = {
        "exitCode": -1 if by_signal or status.exit_code is None else status.exit_code,
        "stdout": view.stdout,
        "stderr": view.stderr + TIMED_OUT if status.timed_out else view.stderr,
    }
    if status.signal is not None and not status.timed_out:
        body["signal"] = status.signal
    if status.timed_out:
        body["timedOut"] = True
    if view.is_truncated:
        body["truncated"] = True
    return body
