"""A request for a guest port: gate, wait or wake, pass on, and say clearly what is wrong.

Order: record (if the fleet demands one), gate, life, waiting, the port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog
from starlette.types import Scope

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.answers import Answer, error_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.body import ClientGone
from sandfleet.controlplane.http.call import Call, Endpoint
from sandfleet.controlplane.http.serving import send_answer
from sandfleet.controlplane.proxy.forward import Forwarding, open_answer
from sandfleet.controlplane.proxy.preview_gate import PreviewHost, is_open_to, without_tokens
from sandfleet.controlplane.proxy.preview_pages import closed_port_page
from sandfleet.controlplane.proxy.readiness import gone, locate_by_row, unknown_sandbox
from sandfleet.controlplane.proxy.upload import Upload
from sandfleet.model.errors import NotFound, PortClosed, SandfleetError, Unauthorised
from sandfleet.model.sandbox import Sandbox
from sandfleet.ports.data_plane import DataPlaneAnswer, DataPlaneRequest
from sandfleet.wire.port_frames import HeadReader, PortAnswer, PortRequest, encode_head, end_to_end
from sandfleet.wire.worker_messages import REQUEST_ID_HEADER

log = structlog.get_logger(__name__)

ROUTE = "preview"
BODY_BYTES_MAX = 2**40
SILENCE_MAX_S = 3700.0
"""Somewhat more than what the worker allows an application."""
EVENT_STREAM = "text/event-stream"
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


async def _answers_nothing(call: Call) -> Answer:
    raise NotFound("no such path")


PREVIEW = Endpoint("GET", ("/",), _answers_nothing, "A guest port", Access.OPEN, {})
"""Stands for every method and path of a preview host, where an endpoint is asked for."""


def preview_call(edge: Edge, scope: Scope, host: PreviewHost, *, request_id: str) -> Call:
    """Return the call of a preview request."""
    return Call(edge, PREVIEW, scope=scope, request_id=request_id, values={"id": host.sandbox_id})


async def serve_preview(call: Call, host: PreviewHost) -> None:
    """Serve one HTTP request for a guest port to its end."""
    try:
        async with AsyncExitStack() as stack:
            upload = Upload(call.receive, bytes_max=BODY_BYTES_MAX)
            sandbox = await admitted(call, host)
            located = await locate_by_row(call.edge, sandbox.organisation_id, sandbox.id)
            forwarding = _forwarding(call, host, sandbox, upload)
            answer = await open_answer(call, located, forwarding, stack=stack)
            await _relay(call, answer, upload)
    except ClientGone:
        return
    except SandfleetError as error:
        await send_answer(call, _refusal(call, host, error))
    except Exception as error:  # a defect is told as 500 and logged
        log.error("preview failed", request_id=call.request_id, exc_info=error)
        await send_answer(call, refusal(call, SandfleetError("internal error")))


async def admitted(call: Call, host: PreviewHost) -> Sandbox:
    """Return the sandbox if this request may reach its port; NotFound, Unauthorised, Gone."""
    plane = call.edge.plane
    try:
        sandbox = await plane.stores.sandboxes.get_any(host.sandbox_id)
    except NotFound as error:
        raise unknown_sandbox() from error
    if plane.settings.preview_needs_record and not await plane.stores.previews.has(sandbox.id, host.port):
        raise NotFound(f"port {host.port} has no preview")
    if not is_open_to(sandbox.preview_digest, call.headers):
        raise Unauthorised("this preview asks for its token", code="preview_token")
    if sandbox.is_terminal:
        raise gone(sandbox)
    return sandbox


def port_request(call: Call, sandbox: Sandbox, *, method: str, has_body: bool) -> PortRequest:
    """Return the head that the guest gets: the client's own, with where it came from."""
    scope = call.scope
    sent = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    kept = without_tokens(end_to_end(sent), digest=sandbox.preview_digest)
    scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
    forwarded: dict[str, str] = {
        "x-forwarded-for": ", ".join(
            [*call.headers.getlist("x-forwarded-for"), *([scope["client"][0]] if scope.get("client") else [])]
        ),
        "x-forwarded-proto": call.headers.get("x-forwarded-proto") or scheme,
        "x-forwarded-host": call.headers.get("x-forwarded-host") or call.headers["host"],
    }
    headers = [(name, value) for name, value in kept if name.lower() not in forwarded]
    query = scope["query_string"].decode("latin-1")
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
    return PortRequest(
        method=method,
        target=f"{path}?{query}" if query else path,
        headers=[*headers, *forwarded.items()],
        has_body=has_body,
    )


def _forwarding(call: Call, host: PreviewHost, sandbox: Sandbox, upload: Upload) -> Forwarding:
    length = call.headers.get("content-length")
    has_body = "transfer-encoding" in call.headers or length not in (None, "0")
    head = encode_head(port_request(call, sandbox, method=call.method, has_body=has_body))
    if not has_body:
        upload.nothing_comes()

    async def body() -> AsyncIterator[bytes]:
        yield head
        async for piece in upload.pieces():
            yield piece

    def make() -> DataPlaneRequest:
        return DataPlaneRequest(
            "POST",
            f"/sandboxes/{host.sandbox_id}/ports/{host.port}",
            {"Content-Type": "application/octet-stream"},
            body() if has_body else head,
            silence_max_s=SILENCE_MAX_S,
        )

    return Forwarding(
        make=make,
        may_repeat=lambda: call.method in _REPEATABLE and upload.may_repeat,
        failure=lambda: upload.failure,
    )


async def read_head(pieces: AsyncIterator[bytes]) -> tuple[PortAnswer, bytes]:
    """Return the guest's head and what came with it of what follows."""
    reader = HeadReader()
    async for piece in pieces:
        head = reader.feed(piece, PortAnswer)
        if head is not None:
            return head, reader.rest
    raise PortClosed("the port broke the connection off")


async def _relay(call: Call, answer: DataPlaneAnswer, upload: Upload) -> None:
    """Send what the guest answers, at the client's pace; a body that breaks off is left incomplete."""
    pieces = answer.pieces()
    head, first = await read_head(pieces)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
    is_endless = any(
        name.lower() == "content-type" and value.startswith(EVENT_STREAM) for name, value in head.headers
    )
    await call.send({"type": "http.response.start", "status": head.status, "headers": headers})

    async def body() -> None:
        try:
            if first:
                await call.send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await call.send({"type": "http.response.body", "body": piece, "more_body": True})
        except SandfleetError as error:
            log.info("a preview broke off", request_id=call.request_id, reason=error.message)
            return
        await call.send({"type": "http.response.body", "body": b""})

    async with TaskGroup() as group:
        sending = group.create_task(body())
        watching = group.create_task(upload.client_left())
        leaving = group.create_task(call.edge.drain.leaving() if is_endless else asyncio.Event().wait())
        await asyncio.wait({sending, watching, leaving}, return_when=asyncio.FIRST_COMPLETED)
        is_ended_early = leaving.done() and not (sending.done() or watching.done())
        for task in (sending, watching, leaving):
            task.cancel()
    if is_ended_early:
        # A stream of events has no end, and its reader opens it again by itself, on another replica.
        await call.send({"type": "http.response.body", "body": b""})


def _refusal(call: Call, host: PreviewHost, error: SandfleetError) -> Answer:
    if isinstance(error, PortClosed) and "text/html" in call.headers.get("accept", ""):
        page = closed_port_page(host.port)
        return replace(page, headers={**page.headers, REQUEST_ID_HEADER: call.request_id})
    return refusal(call, error)


def refusal(call: Call, error: SandfleetError) -> Answer:
    """Return what the fleet itself says, and not the guest: nobody else adds the request's id to it."""
    answer = error_answer(error, request_id=call.request_id)
    headers = {**answer.headers, REQUEST_ID_HEADER: call.request_id}
    if isinstance(error, Unauthorised):
        headers["WWW-Authenticate"] = "Bearer"
    return replace(answer, headers=headers)
