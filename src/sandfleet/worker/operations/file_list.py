"""GET files/list: the entries of a directory by name."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from sandfleet.ports.guest import FileEntry
from sandfleet.wire.file_requests import required_path
from sandfleet.worker.call import Call, json_answer, printable


async def file_list(call: Call) -> Response:
    """Answer with the entries; without a path those of the root."""
    path = required_path(call.query("path") or "/")
    entries = await call.guest.list_directory(path)
    return json_answer([public_entry(entry) for entry in sorted(entries, key=lambda entry: entry.name)])


def public_entry(entry: FileEntry) -> dict[str, Any]:
    """Return one entry in the API's form."""
    changed_at = datetime.fromtimestamp(entry.mtime_s, UTC)
    return {
        "name": printable(entry.name),
        "path": printable(entry.path),
        "isDir": entry.is_dir,
        "size": entry.size,
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "mtime": changed_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
