"""DELETE files: a path and all below it."""

from __future__ import annotations

from starlette.responses import Response

from sandfleet.wire.file_requests import deletable_path
from sandfleet.worker.call import Call, no_content


async def file_delete(call: Call) -> Response:
    """Remove it; a missing one is no error."""
    await call.guest.delete(deletable_path(call.query("path")))
    return no_content()
