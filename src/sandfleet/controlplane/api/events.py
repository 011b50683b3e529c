"""`…/events`: a sandbox's own transition log, as a list or as a stream that goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from sandfleet.controlplane.api.field_values import invalid
from sandfleet.controlplane.api.paths import SANDBOX
from sandfleet.controlplane.dependencies import sandbox_topic
from sandfleet.controlplane.http.answers import Answer, list_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import LIST_PARAMETERS, Call, Endpoint, Parameter, Streamed
from sandfleet.controlplane.http.event_stream import EventStream
from sandfleet.controlplane.http.paging import decode_cursor, first_of_rest, page_limit
from sandfleet.controlplane.proxy.readiness import find_sandbox
from sandfleet.model.sandbox import Sandbox
from sandfleet.model.transition import Transition
from sandfleet.wire.public_api import TransitionBody
from sandfleet.wire.server_sent_events import event, is_asked_for, number_of

BATCH_MAX = 500
GAP = "gap"


async def list_events(call: Call) -> Answer | Streamed:
    """Return the log newest first; for a reader of event streams oldest first, and what is to come."""
    sandbox = await find_sandbox(call.edge, call.principal.organisation_id, call.values["id"])
    limit, after, before = page_limit(call.query), reader_after(call), _before(call)
    if is_asked_for(call.headers.get("accept")):
        return EventStream(_pieces(call, sandbox, after=after))
    rows = await call.edge.plane.stores.sandboxes.transitions(
        sandbox.organisation_id, sandbox.id, limit=limit + 1, before=before
    )
    page, headers = first_of_rest(call, rows, limit=limit, place=lambda row: (row.at, str(row.id)))
    return list_answer([_body(row) for row in page], headers=headers)


def _before(call: Call) -> int | None:
    """Return the number before which the page begins: the log's order is that of its numbers."""
    cursor = decode_cursor(call.query.get("cursor"))
    try:
        return None if cursor is None else number_of(cursor[1])
    except ValueError:
        raise invalid("cursor is not one of this server's") from None


def reader_after(call: Call) -> int:
    """Return the number after which the stream goes on: a reader that comes back says the last it saw."""
    try:
        given = number_of(call.headers.get("last-event-id"))
        asked = number_of(call.query.get("after"))
    except ValueError:
        raise invalid("after and Last-Event-ID must be the id of an event") from None
    return (asked or 0) if given is None else given


async def _pieces(call: Call, sandbox: Sandbox, *, after: int) -> AsyncIterator[bytes]:
    """Yield the events from there on; an empty piece whenever a look found nothing new."""
    log = call.edge.plane.stores.log
    hints = call.edge.plane.wake_ups.subscribe(sandbox_topic(sandbox.id))
    if after:
        oldest = await log.oldest(sandbox.organisation_id, sandbox.id)
        if oldest is None or oldest > after:
            yield event(GAP, msgspec.json.encode({"oldest": oldest}))
    while True:
        rows = await log.after(sandbox.organisation_id, sandbox.id, after, limit=BATCH_MAX)
        yield b"".join(_event(row) for row in rows)
        if rows:
            after = rows[-1].id or after
        else:
            await anext(hints)


def _event(row: Transition) -> bytes:
    body = _body(row)
    return event(row.event, body.__pydantic_serializer__.to_json(body, by_alias=True), number=row.id)


def _body(row: Transition) -> TransitionBody:
    elapsed_ms = row.detail.get("elapsed_ms")
    return TransitionBody(
        id=row.id,
        at=row.at,
        from_state=row.from_state,
        to_state=row.to_state,
        event=row.event,
        actor=row.actor,
        reason=row.reason,
        worker_id=row.worker_id,
        epoch=row.epoch,
        operation_id=row.operation_id,
        elapsed_ms=elapsed_ms if isinstance(elapsed_ms, int) else None,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        paths=(f"{SANDBOX}/events",),
        handler=list_events,
        summary="The sandbox's transition log, newest first; with `Accept: text/event-stream` oldest "
        "first and live, resumed by `Last-Event-ID` or `after`",
        access=Access.ORGANISATION,
        answers={200: list[TransitionBody]},
        errors=("not_found", "invalid_argument"),
        parameters=(
            *LIST_PARAMETERS,
            Parameter(
                "after",
                "where the stream goes on: after the event of this id",
                schema={"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
            ),
        ),
    ),
)
