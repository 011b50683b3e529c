"""The ASGI application: finds the endpoint of a request and has it served.

Order: request id, preflight, path (404) and method (405), then all that `serving` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import Receive, Scope, Send

from sandfleet.controlplane.api import (
    checkpoints,
    commands,
    drains,
    events,
    files,
    forks,
    health,
    hibernation,
    log,
    migration,
    organisations,
    placement,
    plan,
    previews,
    reference,
    rollouts,
    sandbox_state,
    sandboxes,
    scaling,
    sessions,
    signed_files,
    sizes,
    tags,
    workers,
)
from sandfleet.controlplane.edge import Edge
from sandfleet.controlplane.http.answers import Answer, error_answer, json_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Streamed
from sandfleet.controlplane.http.client_socket import ClientSocket
from sandfleet.controlplane.http.observing import Observed, answer_preflight, is_preflight
from sandfleet.controlplane.http.openapi import openapi_document
from sandfleet.controlplane.http.routing import Match, RouteTable
from sandfleet.controlplane.http.serving import serve
from sandfleet.controlplane.proxy.preview import ROUTE as PREVIEW_ROUTE
from sandfleet.controlplane.proxy.preview import preview_call, serve_preview
from sandfleet.controlplane.proxy.preview_gate import PreviewHost, preview_host
from sandfleet.controlplane.proxy.preview_socket import PreviewSocket
from sandfleet.model.errors import NotFound

ENDPOINTS: tuple[Endpoint, ...] = (
    *health.ENDPOINTS,
    *reference.ENDPOINTS,
    *sandboxes.ENDPOINTS,
    *hibernation.ENDPOINTS,
    *checkpoints.ENDPOINTS,
    *forks.ENDPOINTS,
    *commands.ENDPOINTS,
    *sessions.ENDPOINTS,
    *files.ENDPOINTS,
    *signed_files.ENDPOINTS,
    *sandbox_state.ENDPOINTS,
    *events.ENDPOINTS,
    *placement.ENDPOINTS,
    *tags.ENDPOINTS,
    *previews.ENDPOINTS,
    *sizes.ENDPOINTS,
    *scaling.ENDPOINTS,
    *migration.ENDPOINTS,
    *workers.ENDPOINTS,
    *drains.ENDPOINTS,
    *rollouts.ENDPOINTS,
    *plan.ENDPOINTS,
    *log.ENDPOINTS,
    *organisations.ENDPOINTS,
)


async def openapi(call: Call) -> Answer | Streamed:
    """Return the document of this very server."""
    sizes = call.edge.plane.settings.size_limits
    return json_answer(200, openapi_document(ALL_ENDPOINTS, server_url=call.origin, sizes=sizes))


ALL_ENDPOINTS = (
    *ENDPOINTS,
    Endpoint("GET", (reference.OPENAPI_PATH,), openapi, "This document", Access.OPEN, {200: dict}),
)

SocketHandler = Callable[[Call], Awaitable[None]]
_SOCKET = Endpoint("GET", (), openapi, "A session's socket", Access.DATA_PLANE, {})


class Application:
    """Serves HTTP. Lifespan events need nothing: `main` owns what lives longer than a request."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._table: RouteTable[Endpoint] = RouteTable()
        for endpoint in ALL_ENDPOINTS:
            for path in endpoint.paths:
                self._table.add(endpoint.method, path, endpoint)
        self._sockets: RouteTable[SocketHandler] = RouteTable()
        for path, handler in sessions.SOCKETS.items():
            self._sockets.add("GET", path, handler)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            host = preview_host(scope)
            if host is not None:
                await self._preview(host, scope, receive, send)
                return
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        observed = self._observed(scope, send)
        try:
            await self._serve(observed, scope, receive)
        finally:
            observed.end()

    def _observed(self, scope: Scope, send: Send) -> Observed:
        edge = self._edge
        return Observed(scope, send, clock=edge.plane.clock, metrics=edge.metrics, drain=edge.drain)

    async def _preview(self, host: PreviewHost, scope: Scope, receive: Receive, send: Send) -> None:
        observed = self._observed(scope, send)
        observed.route, observed.is_foreign = PREVIEW_ROUTE, True
        call = preview_call(self._edge, scope, host, request_id=observed.request_id)
        call.receive, call.send = receive, observed.send
        try:
            if scope["type"] == "websocket":
                await PreviewSocket(call, host).serve()
            else:
                await serve_preview(call, host)
        finally:
            observed.end()

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        observed = self._observed(scope, send)
        try:
            match = self._sockets.match(scope["path"])
            if match is None:
                await receive()
                client = ClientSocket(receive, observed.send, request_id=observed.request_id)
                await client.end_with(NotFound("no such path"))
                return
            observed.route = match.template
            call = Call(self._edge, _SOCKET, scope=scope, request_id=observed.request_id, values=match.values)
            call.receive, call.send = receive, observed.send
            await match.targets["GET"](call)
        finally:
            observed.end()

    async def _serve(self, observed: Observed, scope: Scope, receive: Receive) -> None:
        if is_preflight(scope):
            await answer_preflight(scope, observed.send)
            return
        match = self._table.match(scope["path"])
        if match is None:
            error = error_answer(NotFound("no such path"), request_id=observed.request_id)
            await _send(observed, error)
            return
        observed.route = match.template
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        endpoint = match.targets.get(method)
        if endpoint is None:
            await _send(observed, _other_method(scope["method"], match, observed.request_id))
            return
        call = Call(self._edge, endpoint, scope=scope, request_id=observed.request_id, values=match.values)
        call.receive, call.send = receive, observed.send
        await serve(call)


def _other_method(method: str, match: Match[Endpoint], request_id: str) -> Answer:
    allow = {"Allow": ", ".join(match.methods)}
    if method == "OPTIONS":
        return Answer(204, media_type=None, headers=allow)
    body = {
        "error": f"{match.template} has no method {method[:20]}",
        "code": "method_not_allowed",
        "requestId": request_id,
    }
    return Answer(405, msgspec.json.encode(body), headers=allow)


async def _send(observed: Observed, answer: Answer) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    if answer.media_type is not None:
        headers.append((b"content-type", answer.media_type.encode()))
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await observed.send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await observed.send({"type": "http.response.body", "body": answer.body})
