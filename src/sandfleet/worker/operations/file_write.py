"""PUT files: stream a file into the guest; it replaces the old one in one step at the end."""

from __future__ import annotations

from starlette.responses import Response

from sandfleet.wire.file_requests import required_path
from sandfleet.worker.call import Call, no_content


async def file_write(call: Call) -> Response:
    """Write the body. One that is cut short or too large leaves the old content."""
    path = required_path(call.query("path"))
    await call.guest.write_file(path, call.chunks(bytes_max=call.host.limits.file_bytes_max))
    return no_content()
