"""POST files/mkdir: a directory and its parents."""

from __future__ import annotations

from starlette.responses import Response

from sandfleet.wire.file_requests import required_path
from sandfleet.worker.call import Call, no_content


async def file_mkdir(call: Call) -> Response:
    """Make the directory; one that exists is no error."""
    await call.guest.make_directory(required_path(call.query("path")))
    return no_content()
