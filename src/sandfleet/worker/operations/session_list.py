"""GET exec and GET exec/{id}: the sessions of a sandbox, the commands of `exec/run` among them."""

from __future__ import annotations

from starlette.responses import Response

from sandfleet.model.ids import EXEC_ID_PREFIX
from sandfleet.worker.call import Call, json_answer
from sandfleet.worker.operations.session_view import session, session_view


async def session_list(call: Call) -> Response:
    """Answer with all that the guest still knows, newest first; a terminal is none of them.

    What the fleet ran to prepare the machine was not started by a caller and has another name.
    """
    statuses = [
        status
        for status in await call.guest.list_execs()
        if not status.has_terminal and status.exec_id.startswith(EXEC_ID_PREFIX)
    ]
    statuses.sort(key=lambda status: status.started_at_s, reverse=True)
    return json_answer([session_view(call.resident, status) for status in statuses])


async def session_get(call: Call) -> Response:
    """Answer with one."""
    return json_answer(session_view(call.resident, await session(call.guest, call.path_value("exec_id"))))
