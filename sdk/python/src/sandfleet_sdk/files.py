"""Files of a sandbox, written once as flows. Bodies are streamed in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sandfleet_sdk.attached_models import SignedUrl
from sandfleet_sdk.calls import Call, Flow, Sink, Source, path_of
from sandfleet_sdk.errors import NotFound
from sandfleet_sdk.models import FileEntry

PIECE_BYTES = 256 * 1024


def read(sandbox_id: str, path: str) -> Flow[bytes]:
    """Return a file's content. For what is large, see `download`."""
    answer = yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "files"), query={"path": path})
    return answer.body


def download(sandbox_id: str, path: str, sink: Sink) -> Flow[None]:
    """Give a file's content to `sink`, piece by piece (`open(…, "wb").write` is one)."""
    yield Call(method="GET", path=path_of("sandboxes", sandbox_id, "files"), query={"path": path}, sink=sink)


def write(sandbox_id: str, path: str, content: bytes | str) -> Flow[None]:
    """Write a file whole; missing directories are made, an interrupted write leaves the old content."""
    data = content.encode() if isinstance(content, str) else bytes(content)
    yield from upload(sandbox_id, path, lambda: [data])


def upload(sandbox_id: str, path: str, source: Source, *, repeatable: bool = True) -> Flow[None]:
    """Write a file from pieces. `source` is called anew for a repeat, unless it is not `repeatable`."""
    yield Call(
        method="PUT",
        path=path_of("sandboxes", sandbox_id, "files"),
        query={"path": path},
        source=source,
        repeatable=repeatable,
        headers={"Content-Type": "application/octet-stream"},
    )


def list_directory(sandbox_id: str, path: str = "/home/sandbox") -> Flow[list[FileEntry]]:
    """Return a directory's entries by name."""
    answer = yield Call(
        method="GET", path=path_of("sandboxes", sandbox_id, "files", "list"), query={"path": path}
    )
    return [FileEntry.parse(entry) for entry in answer.array()]


def make_directory(sandbox_id: str, path: str) -> Flow[None]:
    """Make a directory and those above it; one that is there already is no error."""
    yield Call(method="POST", path=path_of("sandboxes", sandbox_id, "files", "mkdir"), query={"path": path})


def delete(sandbox_id: str, path: str) -> Flow[None]:
    """Remove a file, or a directory with all in it; a missing one is no error."""
    yield Call(method="DELETE", path=path_of("sandboxes", sandbox_id, "files"), query={"path": path})


def download_url(sandbox_id: str, path: str, *, expires_in_s: int | None = None) -> Flow[SignedUrl]:
    """Return a URL by which anybody can read the file for a while."""
    return (yield from _signed_url(sandbox_id, path, "download-url", expires_in_s))


def upload_url(sandbox_id: str, path: str, *, expires_in_s: int | None = None) -> Flow[SignedUrl]:
    """Return a URL by which anybody can write the file (PUT) for a while."""
    return (yield from _signed_url(sandbox_id, path, "upload-url", expires_in_s))


def _signed_url(sandbox_id: str, path: str, kind: str, expires_in_s: int | None) -> Flow[SignedUrl]:
    payload = {"path": path} if expires_in_s is None else {"path": path, "expiresIn": expires_in_s}
    answer = yield Call(method="POST", path=path_of("sandboxes", sandbox_id, "files", kind), payload=payload)
    return SignedUrl.parse(answer.object())


def find(sandbox_id: str, path: str) -> Flow[FileEntry | None]:
    """Return the entry of a path, None if there is none."""
    parent, _, name = path.rstrip("/").rpartition("/")
    if not name:
        return FileEntry(name="/", path="/", is_directory=True, size=0)
    folder = parent or ("/" if path.startswith("/") else ".")
    try:
        entries = yield from list_directory(sandbox_id, folder)
    except NotFound:
        yield from _the_sandbox_itself(sandbox_id)
        return None
    return next((entry for entry in entries if entry.name == name), None)


def exists(sandbox_id: str, path: str) -> Flow[bool]:
    """Say whether there is a file or directory of that path."""
    entry = yield from find(sandbox_id, path)
    return entry is not None


def _the_sandbox_itself(sandbox_id: str) -> Flow[None]:
    # 404 may mean the directory or the sandbox: only a missing directory is an answer, not an error.
    yield Call(method="GET", path=path_of("sandboxes", sandbox_id))


def pieces_of(stream: BinaryIO) -> Iterator[bytes]:
    """Give a stream's content in pieces until its end."""
    while piece := stream.read(PIECE_BYTES):
        yield piece


def file_source(path: Path) -> Source:
    """Return a source that reads a local file, from its start each time."""

    def pieces() -> Iterator[bytes]:
        with path.open("rb") as stream:
            yield from pieces_of(stream)

    return pieces
