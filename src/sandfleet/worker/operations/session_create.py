"""POST exec: start a program as a session, which nobody reads until a client attaches."""

from __future__ import annotations

import os

from starlette.responses import Response

from sandfleet.model import ids
from sandfleet.ports.guest import ExecOrder
from sandfleet.wire import json_fields
from sandfleet.wire.exec_request import valid_exec_id
from sandfleet.wire.session_request import session_request
from sandfleet.wire.worker_messages import EXEC_ID_HEADER
from sandfleet.worker.call import Call, json_answer
from sandfleet.worker.operations.session_view import session_view


async def session_create(call: Call) -> Response:
    """Answer when the program runs; the same id twice is one session."""
    request = session_request(json_fields.json_object(await call.body()))
    order = ExecOrder(
        exec_id=given_id(call),
        argv=request.argv,
        envs=request.envs,
        cwd=request.cwd,
        timeout_s=request.timeout_s,
        stdin=True,
        linger_s=request.linger_s,
        is_session=True,
    )
    status = await call.guest.start_exec(order)
    return json_answer(session_view(call.resident, status), status=201)


def given_id(call: Call) -> str:
    """Return the id that the caller chose, else a new one."""
    given = call.request.headers.get(EXEC_ID_HEADER)
    return valid_exec_id(given) if given is not None else ids.exec_id(os.urandom(ids.ID_BYTES))
