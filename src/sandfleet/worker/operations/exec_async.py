"""POST exec/run-async: start a command and answer soon."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response

from sandfleet.worker.call import Call, json_answer
from sandfleet.worker.operations.exec_run import begin, result_body

ANSWER_BY_S = 0.4


async def exec_async(call: Call) -> Response:
    """Answer with the result if the command ends at once, else with the id to ask for."""
    execution = await begin(call)
    if await execution.ended(timeout_s=ANSWER_BY_S):
        return json_answer(result_body(execution.view()))
    started_at = datetime.fromtimestamp(execution.status.started_at_s, UTC)
    return json_answer(
        {
            "execId": execution.status.exec_id,
            "running": True,
            "startedAt": started_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        },
        status=202,
    )
