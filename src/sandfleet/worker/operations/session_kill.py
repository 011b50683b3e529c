"""POST exec/{id}/kill: signal a session."""

from __future__ import annotations

from starlette.responses import Response

from sandfleet.wire import json_fields
from sandfleet.wire.session_request import signal_of
from sandfleet.worker.call import Call, no_content
from sandfleet.worker.operations.session_view import session


async def session_kill(call: Call) -> Response:
    """Signal 9 ends everything the session started; a finished one takes any signal."""
    status = await session(call.guest, call.path_value("exec_id"))
    number = signal_of(json_fields.json_object(await call.body()))
    await call.guest.kill_exec(status.exec_id, signal=number)
    return no_content()
