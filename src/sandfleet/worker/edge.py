"""The worker's HTTP edge: who asks, and how errors and answers leave.

Plain ASGI without framework middleware: an exec passes here on its way.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from sandfleet.model.errors import BadRequest, NotFound, NotReady, SandfleetError
from sandfleet.wire.errors import error_body, error_headers, status_of
from sandfleet.wire.worker_messages import EPOCH_HEADER, REQUEST_ID_HEADER
from sandfleet.worker import metrics
from sandfleet.worker.authentication import FleetTokens
from sandfleet.worker.call import JSON_TYPE, Call, printable
from sandfleet.worker.host import Host
from sandfleet.worker.sockets import SocketState

log = structlog.get_logger("sandfleet.worker")
OPEN_PATHS = frozenset({"/health", "/metrics"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_ID_HEADER = REQUEST_ID_HEADER.lower().encode()
CLIENT_LEFT = 499

Operation = Callable[[Call], Awaitable[Response]]


class Edge:
    """Outermost layer: request id, token, errors, one log line."""

    def __init__(self, inner: ASGIApp, *, host: Host, tokens: FleetTokens) -> None:
        self._inner = inner
        self._host = host
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)
            return
        if scope["type"] == "http":
            await self._serve_http(scope, receive, send)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = self._host.clock.monotonic()
        headers = {name: value for name, value in scope["headers"]}
        request_id = _request_id(headers.get(_ID_HEADER, b""))
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_ID_HEADER, request_id.encode())]
            await send(message)

        try:
            if scope["path"] not in OPEN_PATHS:
                self._tokens.verify(headers.get(b"authorization", b"").decode("latin-1") or None)
            scope["app"] = self
            await self._inner(scope, receive, send_marked)
        except ClientDisconnect:
            status = status or CLIENT_LEFT
        except asyncio.CancelledError:
            # The service ends and waits for nobody any more. Whoever is told so asks again, and is
            # answered by the next one; of an error he would think that it came from the work.
            if status:
                raise
            await _error_answer(NotReady("the worker is ending"), request_id)(scope, receive, send_marked)
        except Exception as error:  # noqa: BLE001 -- the last stop: every failure becomes an answer
            problem = _as_problem(error, scope)
            if status:  # too late to say it: an answer cut short tells the client
                log.warning(
                    "answer_cut_short", path=scope["path"], reason=problem.message, request_id=request_id
                )
            else:
                await _error_answer(problem, request_id)(scope, receive, send_marked)
        self._note(scope, status, request_id, self._host.clock.monotonic() - began_s)

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket; the token is looked at before anything else is."""
        began_s = self._host.clock.monotonic()
        headers = {name: value for name, value in scope["headers"]}
        request_id = _request_id(headers.get(_ID_HEADER, b""))
        scope["method"] = "SOCKET"
        state = SocketState(send, request_id=request_id)
        await receive()  # websocket.connect
        try:
            self._tokens.verify(headers.get(b"authorization", b"").decode("latin-1") or None)
            scope["app"] = self
            await self._inner(scope, receive, state.send)
        except ClientDisconnected:
            pass  # whoever asked has left before it was told
        except Exception as error:  # noqa: BLE001 -- the last stop: every failure becomes an answer
            with suppress(OSError):  # the client may have left
                await state.end_with(_as_problem(error, scope))
        self._note(scope, state.status, request_id, self._host.clock.monotonic() - began_s)

    def _note(self, scope: Scope, status: int, request_id: str, took_s: float) -> None:
        if scope["path"] in OPEN_PATHS:
            return
        log.info(
            "call",
            method=scope["method"],
            path=scope["path"],
            status=status,
            took_ms=round(took_s * 1000, 2),
            request_id=request_id,
        )


class DataPlane:
    """Endpoint of one data-plane operation: epoch, gate, measurement."""

    def __init__(self, host: Host, operation: Operation, *, name: str) -> None:
        self._host = host
        self._operation = operation
        self._seconds = metrics.CALL_SECONDS.labels(operation=name)
        self._ok = metrics.CALLS.labels(operation=name, outcome="ok")
        self._refused = metrics.CALLS.labels(operation=name, outcome="refused")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clock = self._host.clock
        began_s = clock.monotonic()
        request = Request(scope, receive)
        counter = self._refused
        try:
            self._host.require_adopted()
            sandbox_id = scope["path_params"]["sandbox_id"]
            resident = self._host.residents.serving(sandbox_id, epoch=asked_epoch(request))
            async with resident.activity() as machine:
                response = await self._operation(
                    Call(host=self._host, resident=resident, guest=machine.guest, request=request)
                )
                await response(scope, receive, send)
            counter = self._ok
        finally:
            counter.inc()
            self._seconds.observe(clock.monotonic() - began_s)


def asked_epoch(request: HTTPConnection) -> int:
    """Return the epoch under which the caller believes the sandbox to be here."""
    value = request.headers.get(EPOCH_HEADER, "")
    if not value.isdecimal() or len(value) > 18:
        raise BadRequest(f"the header {EPOCH_HEADER} must be a number")
    return int(value)


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else secrets.token_hex(16)


def _as_problem(error: Exception, scope: Scope) -> SandfleetError:
    if isinstance(error, SandfleetError):
        return error
    if isinstance(error, HTTPException) and error.status_code == 405:
        return MethodNotAllowed(f"{scope['method']} is not possible here")
    if isinstance(error, HTTPException):
        return NotFound("no such path")
    log.error("defect", path=scope["path"], exc_info=error)
    return SandfleetError("an internal error occurred")


class MethodNotAllowed(BadRequest):
    """The path exists, the method does not."""

    code = "method_not_allowed"


def _error_answer(error: SandfleetError, request_id: str) -> Response:
    body: dict[str, Any] = error_body(error, request_id=request_id)
    body["error"] = printable(body["error"])
    status = 405 if isinstance(error, MethodNotAllowed) else status_of(error)
    return Response(
        msgspec.json.encode(body), status_code=status, headers=error_headers(error), media_type=JSON_TYPE
    )
