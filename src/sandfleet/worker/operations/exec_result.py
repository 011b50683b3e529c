"""GET exec/{id}/result: the output so far, or how it ended."""

from __future__ import annotations

from starlette.responses import Response

from sandfleet.model.errors import NotFound
from sandfleet.wire.exec_request import valid_exec_id
from sandfleet.worker.call import Call, json_answer
from sandfleet.worker.executions import Execution
from sandfleet.worker.operations.exec_run import result_body
from sandfleet.worker.operations.follow_exec import follow

WAIT_S = 0.5


async def exec_result(call: Call) -> Response:
    """Wait a moment for the end; a result is kept by the guest for ten minutes."""
    execution = await _known(call)
    if not await execution.ended(timeout_s=WAIT_S if execution.status.running else None):
        view = execution.view()
        return json_answer({"running": True, "stdout": view.stdout, "stderr": view.stderr})
    view = execution.view()
    ended_at_s = view.status.ended_at_s or view.status.started_at_s
    return json_answer(
        {
            "running": False,
            **result_body(view),
            "wakeMs": 0,
            "createMs": 0,
            "commandMs": max(0, round((ended_at_s - view.status.started_at_s) * 1000)),
        }
    )


async def _known(call: Call) -> Execution:
    exec_id = call.request.path_params["exec_id"]
    execution = call.resident.executions.find(exec_id)
    if execution is not None:
        return execution
    try:
        status = await call.guest.exec_status(valid_exec_id(exec_id))
    except NotFound:
        raise NotFound(f"no exec {exec_id} in this sandbox") from None
    return follow(call.host.background, call.resident, call.guest, status)
