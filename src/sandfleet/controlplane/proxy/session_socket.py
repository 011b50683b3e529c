"""The client's side of a session: who may, the decision within five seconds, and how it ends.

Facts: the Python client gives a handshake ten seconds. So what is not decided after five
is let in and held; whatever fails later is a close code. Pings are answered beneath
here, at once, whatever the guest does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from sandfleet.adapters.task_group import TaskGroup
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call
from sandfleet.controlplane.http.client_socket import ClientSlow, ClientSocket
from sandfleet.controlplane.proxy.readiness import locate
from sandfleet.controlplane.proxy.session_carrier import SessionCarrier, SessionTarget
from sandfleet.model.errors import NotFound, SandfleetError
from sandfleet.wire import session_frames as frames
from sandfleet.wire.exec_request import valid_exec_id
from sandfleet.wire.session_request import offset_from, scrollback_from

log = structlog.get_logger(__name__)

DECIDED_WITHIN_S = 5.0


async def serve_session(call: Call, *, kind: str) -> None:
    """Serve one socket to its end; every failure becomes an answer or a close code."""
    client = ClientSocket(call.receive, call.send, request_id=call.request_id)
    await call.receive()  # websocket.connect
    with call.edge.metrics.socket_clients.labels(kind).track_inprogress():
        await _to_its_end(call, client, kind=kind)


async def _to_its_end(call: Call, client: ClientSocket, *, kind: str) -> None:
    try:
        await _serve(call, client, kind=kind)
    except ClientSlow:
        log.info("session client too slow", request_id=call.request_id)
        await client.close(frames.TRY_LATER)
    except OSError:
        log.debug("session client left", request_id=call.request_id)
    except SandfleetError as error:
        call.edge.metrics.errors.labels(error.code).inc()
        await client.end_with(error)
    except Exception as error:  # a defect is told and logged
        log.error("session failed", request_id=call.request_id, exc_info=error)
        await client.end_with(SandfleetError("internal error"))


async def _serve(call: Call, client: ClientSocket, *, kind: str) -> None:
    call.caller = await call.edge.authenticator.authenticate(
        Access.SOCKET, call.headers, call.query, sandbox_id=call.values.get("id"), is_get=True
    )
    located = await locate(call.edge, call.principal.organisation_id, call.values["id"])
    carrier = SessionCarrier(call.edge, client, _target(call, kind), call.request_id)
    async with TaskGroup() as group:
        carrying = group.create_task(_caught(carrier.carry(located)))
        deciding = group.create_task(carrier.attached.wait())
        waited_s = DECIDED_WITHIN_S - (call.edge.plane.clock.monotonic() - call.received_at)
        await asyncio.wait(
            {carrying, deciding}, timeout=max(0.0, waited_s), return_when=asyncio.FIRST_COMPLETED
        )
        deciding.cancel()
        if not (carrying.done() and isinstance(carrying.result(), Exception)):
            await _carry_on(carrier, client, carrying, group)
        carrying.cancel()
    failure = carrying.result() if not carrying.cancelled() else None
    if failure is not None:
        raise failure


async def _carry_on(
    carrier: SessionCarrier,
    client: ClientSocket,
    carrying: asyncio.Task[Exception | None],
    group: TaskGroup,
) -> None:
    """Let the client in; return when the session has ended or the client has left."""
    known = carrier.target.offset if carrier.position is None else carrier.position
    await client.accept({} if known is None else {frames.OFFSET_HEADER: str(known)})
    reading = group.create_task(_caught(_read(carrier, client)))
    await asyncio.wait({carrying, reading}, return_when=asyncio.FIRST_COMPLETED)
    reading.cancel()
    if carrying.done() and carrying.result() is None:
        await client.close(frames.NORMAL)


async def _read(carrier: SessionCarrier, client: ClientSocket) -> None:
    """Take the client's messages, but none while more than 1 MiB waits for the process."""
    while True:
        while not carrier.stdin.has_room and not carrier.edge.drain.is_draining:
            await carrier.edge.plane.clock.sleep(0.01)
        message = await client.receive()
        if message is None:
            return
        if carrier.target.is_bare:
            carrier.stdin.put(message.encode() if isinstance(message, str) else message)
        elif isinstance(message, bytes) and (stdin := frames.stdin_of(message)) is not None:
            if stdin.position is not None:
                continue  # a form that only exists inside the fleet
            carrier.stdin.put(stdin.data)
            if stdin.is_last:
                carrier.stdin.end()
        carrier.changed.set()


def _target(call: Call, kind: str) -> SessionTarget:
    try:
        session_id = valid_exec_id(call.values["sid"])
    except SandfleetError:
        raise NotFound("no such session in this sandbox") from None
    is_terminal = kind == "pty"
    return SessionTarget(
        sandbox_id=call.values["id"],
        kind=kind,
        session_id=session_id,
        offset=offset_from(call.query.get("offset")),
        scrollback=scrollback_from(call.query.get("scrollback")) if is_terminal else 0,
    )


async def _caught(work: Coroutine[Any, Any, None]) -> Exception | None:
    """Return what a part failed with: a group of errors would hide its kind."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 -- raised again by whoever waits
        return error
    return None
