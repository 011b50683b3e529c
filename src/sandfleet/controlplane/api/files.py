"""`…/files`: read, write, list, make directories, delete; streamed in both directions."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from sandfleet.controlplane.api.paths import data_plane
from sandfleet.controlplane.http.answers import Answer, no_content
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.body import announced_length
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter, Streamed
from sandfleet.controlplane.proxy.forward import Forwarding, open_answer
from sandfleet.controlplane.proxy.readiness import locate
from sandfleet.controlplane.proxy.relay import RelayedAnswer
from sandfleet.controlplane.proxy.upload import Upload
from sandfleet.model.errors import BadRequest, NotReady
from sandfleet.model.ids import OrganisationId
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.coordination import Route
from sandfleet.ports.data_plane import DataPlaneAnswer, DataPlaneRequest
from sandfleet.wire.public_api import FileEntry

ASYNC_WAKE_WAIT_S = 5.0
LIST_BYTES_MAX = 256 * 1024 * 1024
FILE_SILENCE_S = 120.0
_NO_NUL = {"type": "string", "pattern": "^[^\\u0000]*$"}
_PATH_SCHEMA = {**_NO_NUL, "minLength": 1}
PATH = Parameter("path", "absolute, or relative to /home/sandbox", is_required=True, schema=_PATH_SCHEMA)


class Waking(NotReady):
    """The sandbox is coming; the client said that it will ask again."""

    code = "waking"


async def read_file(call: Call) -> Streamed:
    """Stream a file out."""
    return await read_file_of(call, call.principal.organisation_id)


async def read_file_of(call: Call, organisation_id: OrganisationId) -> Streamed:
    """Stream a file of the organisation's sandbox out."""
    located, target = await _admit(call, "files", organisation_id=organisation_id)
    request = DataPlaneRequest(method="GET", target=target, headers={}, silence_max_s=FILE_SILENCE_S)
    stack = AsyncExitStack()
    answer = await _opened(call, located, Forwarding(make=lambda: request), stack=stack)
    return RelayedAnswer(answer, stack)


async def write_file(call: Call) -> Answer:
    """Stream a file in. A body that breaks off leaves the old content."""
    return await write_file_of(call, call.principal.organisation_id)


async def write_file_of(call: Call, organisation_id: OrganisationId) -> Answer:
    """Stream a file into the organisation's sandbox."""
    bytes_max = call.edge.plane.settings.file_bytes_max
    length = announced_length(call.headers.get("content-length"), bytes_max=bytes_max)
    located, target = await _admit(call, "files", organisation_id=organisation_id)
    upload = Upload(call.receive, bytes_max=bytes_max)
    headers = {"Content-Type": "application/octet-stream"}
    if length is not None:
        headers["Content-Length"] = str(length)

    def make() -> DataPlaneRequest:
        body = b"" if length == 0 else upload.pieces()
        return DataPlaneRequest("PUT", target, headers, body, silence_max_s=FILE_SILENCE_S)

    forwarding = Forwarding(make=make, may_repeat=lambda: upload.may_repeat, failure=lambda: upload.failure)
    return await _forward(call, located, forwarding)


async def list_files(call: Call) -> Answer:
    """List a directory."""
    located, target = await _admit(call, "files/list", default="/")
    return await _forward(call, located, _plain("GET", target))


async def make_directory(call: Call) -> Answer:
    """Make a directory and its parents."""
    located, target = await _admit(call, "files/mkdir")
    return await _forward(call, located, _plain("POST", target))


async def delete_file(call: Call) -> Answer:
    """Delete a file or a tree; a missing one is no error."""
    located, target = await _admit(call, "files")
    return await _forward(call, located, _plain("DELETE", target))


def _plain(method: str, target: str) -> Forwarding:
    request = DataPlaneRequest(method=method, target=target, headers={}, silence_max_s=FILE_SILENCE_S)
    return Forwarding(make=lambda: request)


async def _opened(
    call: Call, located: Route | Sandbox, forwarding: Forwarding, *, stack: AsyncExitStack
) -> DataPlaneAnswer:
    """Pass on. Who asks again by himself is told so soon, also of a sandbox that was thought to be ready."""
    if call.headers.get("x-osb-async-wake") != "1":
        return await open_answer(call, located, forwarding, stack=stack)
    try:
        return await open_answer(call, located, replace(forwarding, wait_s=ASYNC_WAKE_WAIT_S), stack=stack)
    except NotReady as error:
        raise Waking("sandbox is waking", retry_after_s=1) from error


async def _forward(call: Call, located: Route | Sandbox, forwarding: Forwarding) -> Answer:
    async with AsyncExitStack() as stack:
        answer = await _opened(call, located, forwarding, stack=stack)
        if answer.status == 204:
            return no_content()
        return Answer(answer.status, await answer.read(bytes_max=LIST_BYTES_MAX))


async def _admit(
    call: Call, suffix: str, *, default: str | None = None, organisation_id: OrganisationId | None = None
) -> tuple[Route | Sandbox, str]:
    """Check in the order of the contract: existence, then the path. Waiting comes after it."""
    owner = organisation_id or call.principal.organisation_id
    located = await locate(call.edge, owner, call.values["id"])
    path = _raw_path(call.scope["query_string"], default=default)
    target = f"/sandboxes/{call.values['id']}/{suffix}?path={path}"
    return located, target


def _raw_path(query: bytes, *, default: str | None) -> str:
    """Return the value of `path` as it was sent: file names are bytes, so it is never re-coded."""
    value = next((pair[5:] for pair in query.decode("latin-1").split("&") if pair.startswith("path=")), None)
    if not value:
        if default is None:
            raise BadRequest("path is required")
        value = default
    if b"\0" in unquote_to_bytes(value):
        raise BadRequest("path must not contain NUL")
    return value


FILE_ERRORS = ("not_found", "gone", "not_ready", "waking", "agent_unresponsive")

ENDPOINTS = (
    Endpoint(
        method="GET",
        paths=data_plane("files"),
        handler=read_file,
        summary="Read a file",
        access=Access.DATA_PLANE,
        answers={200: bytes},
        errors=(*FILE_ERRORS, "is_directory"),
        parameters=(PATH,),
    ),
    Endpoint(
        method="PUT",
        paths=data_plane("files"),
        handler=write_file,
        summary="Write a file; parents are created, the replacement is atomic",
        access=Access.DATA_PLANE,
        answers={204: None},
        errors=(*FILE_ERRORS, "is_directory", "not_a_directory", "too_large", "disk_full"),
        parameters=(PATH,),
        takes_bytes=True,
    ),
    Endpoint(
        method="GET",
        paths=data_plane("files/list"),
        handler=list_files,
        summary="List a directory by name",
        access=Access.DATA_PLANE,
        answers={200: list[FileEntry]},
        errors=(*FILE_ERRORS, "not_a_directory"),
        parameters=(Parameter("path", "the directory; `/` if absent", schema=_NO_NUL),),
    ),
    Endpoint(
        method="POST",
        paths=data_plane("files/mkdir"),
        handler=make_directory,
        summary="Make a directory and its parents",
        access=Access.DATA_PLANE,
        answers={204: None},
        errors=(*FILE_ERRORS, "not_a_directory", "disk_full"),
        parameters=(PATH,),
        changes=True,
    ),
    Endpoint(
        method="DELETE",
        paths=data_plane("files"),
        handler=delete_file,
        summary="Delete a file or a directory with all it holds",
        access=Access.DATA_PLANE,
        answers={204: None},
        errors=(*FILE_ERRORS, "invalid_argument"),
        parameters=(PATH,),
    ),
)
