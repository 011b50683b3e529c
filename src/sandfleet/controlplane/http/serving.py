"""The way of a request: credential, body, idempotency, handler, answer. The same for all endpoints."""

from __future__ import annotations

import asyncio

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.http.answers import Answer, error_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.body import ClientGone, announced_length, parse_body, read_body
from sandfleet.controlplane.http.call import Call, Streamed
from sandfleet.controlplane.http.drain import shutting_down
from sandfleet.controlplane.http.idempotency import idempotency_key, once
from sandfleet.controlplane.http.operation_errors import told
from sandfleet.controlplane.http.padding import PADDED_HEADERS, first_of, padded_pieces
from sandfleet.model.errors import SandfleetError

log = structlog.get_logger(__name__)

_NO_BODY = b""


async def serve(call: Call) -> None:
    """Serve the request to its end; every failure becomes an error answer."""
    try:
        raw_body = await _admit(call)
    except ClientGone:
        return
    except Exception as error:  # noqa: BLE001 -- a defect is told as 500 and logged
        await send_answer(call, _as_answer(call, error))
        return
    if call.endpoint.is_padded:
        await _serve_padded(call, raw_body)
        return
    try:
        answer = await _outcome(call, raw_body)
        if isinstance(answer, Answer):
            await send_answer(call, answer)
        else:
            await answer.send_to(call)
    except ClientGone:
        return


async def send_answer(call: Call, answer: Answer) -> None:
    """Send a whole answer."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    if answer.media_type is not None:
        headers.append((b"content-type", answer.media_type.encode()))
    if answer.status != 204:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await call.send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await call.send(
        {"type": "http.response.body", "body": _NO_BODY if call.method == "HEAD" else answer.body}
    )


async def _admit(call: Call) -> bytes:
    """Check the credential, then read and decode the body."""
    edge = call.edge
    if call.endpoint.access is not Access.OPEN:
        call.caller = await edge.authenticator.authenticate(
            call.endpoint.access,
            call.headers,
            call.query,
            sandbox_id=call.values.get("id"),
            is_get=call.endpoint.method == "GET",
        )
    if call.endpoint.body is None:
        return _NO_BODY
    bytes_max = edge.plane.settings.body_bytes_max
    announced_length(call.headers.get("content-length"), bytes_max=bytes_max)
    raw_body = await read_body(call.receive, bytes_max=bytes_max)
    call.model = parse_body(raw_body, call.endpoint.body)
    call.received_at = edge.plane.clock.monotonic()
    return raw_body


async def _outcome(call: Call, raw_body: bytes) -> Answer | Streamed:
    """Run the handler, once per idempotency key, and turn errors into answers."""
    try:
        key = idempotency_key(call)
        if key is not None:
            return await once(call, key, raw_body=raw_body, produce=lambda: _whole_answer(call))
        call.fixed = call.endpoint.fixes()
        return await call.endpoint.handler(call)
    except Exception as error:  # noqa: BLE001 -- a defect is told as 500 and logged
        return _as_answer(call, error)


async def _whole_answer(call: Call) -> Answer:
    """Run the handler of an endpoint that answers in one piece."""
    try:
        answer = await call.endpoint.handler(call)
    except Exception as error:  # noqa: BLE001 -- a defect is told as 500 and logged
        return _as_answer(call, error)
    if not isinstance(answer, Answer):
        raise TypeError(f"{call.endpoint.summary}: an endpoint that changes something must answer whole")
    return answer


def _as_answer(call: Call, error: Exception) -> Answer:
    if isinstance(error, ClientGone):
        raise error
    if not isinstance(error, SandfleetError):
        log.error("request failed", request_id=call.request_id, route=call.endpoint.paths[0], exc_info=error)
        error = SandfleetError("internal error")
    elif error.code == "internal":
        log.error("request failed", request_id=call.request_id, reason=error.message)
    error = told(error)
    call.edge.metrics.errors.labels(error.code).inc()
    return error_answer(error, request_id=call.request_id)


async def _serve_padded(call: Call, raw_body: bytes) -> None:
    """Answer a command: at once if it is quick, else with spaces that keep the connection alive.

    The work runs on its own, so that a client that goes away ends nothing.
    """
    settings, clock = call.edge.plane.settings, call.edge.plane.clock
    work = call.edge.background.start(_unless_hurried(call, raw_body), name=f"exec {call.request_id}")
    answer = await first_of(work, seconds=settings.exec_pad_after_s, clock=clock)
    if answer is not None:
        await send_answer(call, answer)
        return
    headers = [(name.lower().encode(), value.encode()) for name, value in PADDED_HEADERS.items()]
    await call.send({"type": "http.response.start", "status": 200, "headers": headers})
    async for piece in padded_pieces(work, every_s=settings.exec_pad_every_s, clock=clock):
        await call.send({"type": "http.response.body", "body": piece, "more_body": True})
    await call.send({"type": "http.response.body", "body": _NO_BODY})


async def _unless_hurried(call: Call, raw_body: bytes) -> Answer:
    """Return the outcome, or `shutting_down` when this replica cannot wait for it."""
    async with TaskGroup() as group:
        hurry = group.create_task(call.edge.drain.hurried())
        work = group.create_task(_outcome(call, raw_body))
        await asyncio.wait({hurry, work}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        work.cancel()
    if work.cancelled():
        return _as_answer(call, shutting_down())
    answer = work.result()
    if not isinstance(answer, Answer):
        raise TypeError(f"{call.endpoint.summary}: a padded endpoint must answer whole")
    return answer
