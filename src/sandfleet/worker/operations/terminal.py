"""POST pty, POST pty/{id}/resize, DELETE pty/{id}: terminals."""

from __future__ import annotations

from starlette.responses import Response

from sandfleet.ports.guest import ExecOrder, TerminalSize
from sandfleet.wire import json_fields
from sandfleet.wire.session_request import size_of, terminal_request
from sandfleet.worker.call import Call, json_answer, no_content
from sandfleet.worker.operations.session_create import given_id
from sandfleet.worker.operations.session_view import session, session_view


async def terminal_create(call: Call) -> Response:
    """Answer when the shell runs; what it says is kept until somebody looks."""
    fields = json_fields.json_object(await call.body())
    cols, rows = size_of(fields)
    request = terminal_request(fields)
    order = ExecOrder(
        exec_id=given_id(call),
        argv=request.argv,
        envs=request.envs,
        cwd=request.cwd,
        stdin=True,
        terminal=TerminalSize(cols=cols, rows=rows),
        is_session=True,
    )
    status = await call.guest.start_exec(order)
    body = {"sessionID": status.exec_id, "sandboxID": call.resident.sandbox_id}
    return json_answer(body, status=201)


async def terminal_get(call: Call) -> Response:
    """Answer with how it stands; its exit code is told nowhere else."""
    status = await session(call.guest, call.path_value("exec_id"), has_terminal=True)
    return json_answer(session_view(call.resident, status))


async def terminal_resize(call: Call) -> Response:
    """Answer with nothing; the program hears of the size by a signal."""
    status = await session(call.guest, call.path_value("exec_id"), has_terminal=True)
    cols, rows = size_of(json_fields.json_object(await call.body()))
    await call.guest.resize_exec(status.exec_id, TerminalSize(cols=cols, rows=rows))
    return Response(status_code=200)


async def terminal_delete(call: Call) -> Response:
    """End the shell and everything in it."""
    status = await session(call.guest, call.path_value("exec_id"), has_terminal=True)
    await call.guest.kill_exec(status.exec_id)
    return no_content()
