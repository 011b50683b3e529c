"""`/admin/events`: the whole transition log, as a list or as a stream that goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from sandfleet.controlplane.api.events import BATCH_MAX, GAP, reader_after
from sandfleet.controlplane.api.field_values import check_text, invalid, moment_of
from sandfleet.controlplane.http.answers import Answer, list_answer, model_answer
from sandfleet.controlplane.http.authentication import Access
from sandfleet.controlplane.http.call import Call, Endpoint, Parameter, Streamed
from sandfleet.controlplane.http.event_stream import EventStream
from sandfleet.controlplane.http.paging import page_limit
from sandfleet.lifecycle.event_types import EVENTS_OF_TYPE, FLEET_TYPES, events_of, type_of
from sandfleet.model.ids import SandboxId, WorkerId
from sandfleet.model.transition import Transition
from sandfleet.planning.unbroken import PATIENCE_S, Unbroken
from sandfleet.ports.transition_log import LogQuery, TransitionLog
from sandfleet.wire.public_log import ClearedBody, LogRowBody
from sandfleet.wire.server_sent_events import event, number_of

HISTORY_MAX = 2000
TOPIC = "log"
"""Nobody publishes it: who listens looks by itself every second."""
_ABOUT = ("launch", "size", "version", "machine", "rollout", "term", "pool", "part")


async def follow_log(call: Call) -> Answer | Streamed:
    """Stream it: the newest rows so far, oldest first, then what comes."""
    return EventStream(_pieces(call, _query(call), after=reader_after(call)))


async def list_log(call: Call) -> Answer:
    """Return the newest rows, newest first; those behind the mark unless a time or number is asked for."""
    query, log = _query(call), call.edge.plane.stores.log
    before = _number(call, "before")
    query = replace(query, before=before, after=_number(call, "after") or 0)
    if not query.after and before is None and query.since is None:
        query = replace(query, after=await log.mark())
    limit = page_limit(call.query, usual=HISTORY_MAX, most=HISTORY_MAX)
    return list_answer([_body(row) for row in await log.newest(query, limit=limit)])


async def clear_log(call: Call) -> Answer:
    """Set the mark behind which history begins; nothing is deleted."""
    return model_answer(200, ClearedBody(after=await call.edge.plane.stores.log.set_mark()))


def _query(call: Call) -> LogQuery:
    given = call.query
    types = [name for name in (given.get("type") or "").split(",") if name]
    unknown = sorted(set(types) - set(EVENTS_OF_TYPE))
    if unknown:
        raise invalid(f"type {unknown[0][:40]} is none of {', '.join(sorted(EVENTS_OF_TYPE))}")
    scope = given.get("scope") or "all"
    if scope not in ("all", "fleet"):
        raise invalid("scope must be all or fleet")
    worker, sandbox, launch = (_named(given.get(name), name) for name in ("worker", "sandbox", "launch"))
    return LogQuery(
        events=events_of(types) if types else None,
        # Whoever asks for these types alone asks for rows of the fleet: they are found without the others.
        is_of_fleet=scope == "fleet" or (bool(types) and set(types) <= FLEET_TYPES),
        worker_id=WorkerId(worker) if worker else None,
        sandbox_id=SandboxId(sandbox) if sandbox else None,
        launch_id=launch,
        since=moment_of(given["since"], "since") if given.get("since") else None,
        until=moment_of(given["until"], "until") if given.get("until") else None,
    )


def _named(given: str | None, field: str) -> str | None:
    check_text(field, given or "")
    return given or None


def _number(call: Call, name: str) -> int | None:
    try:
        return number_of(call.query.get(name))
    except ValueError:
        raise invalid(f"{name} must be the id of an event") from None


async def _pieces(call: Call, query: LogQuery, *, after: int) -> AsyncIterator[bytes]:
    """Yield the events from there on; an empty piece whenever a look found nothing new."""
    plane = call.edge.plane
    log, is_named = plane.stores.log, call.query.get("named") != "false"
    hints = plane.wake_ups.subscribe(TOPIC)
    if after:
        oldest = await log.oldest_of_all()
        if oldest is None or oldest > after:
            yield event(GAP, msgspec.json.encode({"oldest": oldest}))
            after = max(after, (oldest or 0) - 1)
    else:
        after, rows = await _history(log, query, settled_at=plane.clock.now() - timedelta(seconds=PATIENCE_S))
        yield b"".join(_event(row, is_named=is_named) for row in rows)
    unbroken = Unbroken(after)
    while True:
        found = await log.following(unbroken.after, limit=BATCH_MAX)
        rows = unbroken.take(found, now_s=plane.clock.monotonic())
        yield b"".join(_event(row, is_named=is_named) for row in rows if query.fits(row))
        if not rows:
            await anext(hints)


async def _history(
    log: TransitionLog, query: LogQuery, *, settled_at: datetime
) -> tuple[int, Sequence[Transition]]:
    """Return where the stream goes on, and the newest rows before that, oldest first."""
    mark = await log.mark()
    last = await log.newest(LogQuery(after=mark, until=settled_at), limit=1)
    after = (last[0].id or mark) if last else mark
    rows = await log.newest(replace(query, after=mark, before=after + 1), limit=HISTORY_MAX)
    return after, rows[::-1]


def _event(row: Transition, *, is_named: bool) -> bytes:
    body = _body(row)
    data = body.__pydantic_serializer__.to_json(body, by_alias=True)
    return event(body.type if is_named else None, data, number=row.id)


def _body(row: Transition) -> LogRowBody:
    return LogRowBody(
        id=row.id or 0,
        at=row.at,
        time=f"{row.at:%H:%M:%S}",
        type=type_of(row.event),
        event=row.event,
        sandbox=row.sandbox_id,
        worker=row.worker_id,
        detail=f"{row.event}: {row.reason}",
        about=_about(row.detail),
        org=row.organisation_id,
        before=row.from_state,
        after=row.to_state,
        actor=row.actor,
        reason=row.reason,
        epoch=row.epoch,
        operation_id=row.operation_id,
    )


def _about(detail: Mapping[str, Any]) -> dict[str, Any]:
    return {name: detail[name] for name in _ABOUT if name in detail}


_FILTERS = (
    Parameter("type", f"only these, separated by commas: {', '.join(sorted(EVENTS_OF_TYPE))}"),
    Parameter(
        "scope",
        "`fleet`: only what the fleet decided or saw by itself, and no rows of sandboxes but the beginnings "
        "of moves and saves that its loops ask for",
        schema={"type": "string", "enum": ["all", "fleet"], "default": "all"},
    ),
    Parameter("worker", "only what happened at this worker"),
    Parameter("sandbox", "only what happened to this sandbox"),
    Parameter("launch", "only what happened to this launch of a machine"),
    Parameter("since", "not what was before this time", schema={"type": "string", "format": "date-time"}),
    Parameter(
        "until", "not what was at this time or later", schema={"type": "string", "format": "date-time"}
    ),
)
_ROW = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_AFTER = Parameter("after", "only, or on with, what follows the event of this id", schema=_ROW)

ENDPOINTS = (
    Endpoint(
        method="GET",
        paths=("/admin/events",),
        handler=follow_log,
        summary="What happened in the whole fleet, as a stream: the newest 2000 since the mark, then live; "
        "resumed by `Last-Event-ID` or `after`",
        access=Access.ADMIN,
        answers={200: "text/event-stream"},
        errors=("invalid_argument",),
        parameters=(
            *_FILTERS,
            _AFTER,
            Parameter(
                "named",
                "`false`: events without an `event:` line, for plain readers",
                schema={"type": "string", "enum": ["true", "false"], "default": "true"},
            ),
        ),
    ),
    Endpoint(
        method="GET",
        paths=("/admin/events/history",),
        handler=list_log,
        summary="The newest of it, newest first: what the fleet decided, when, about whom and why",
        access=Access.ADMIN,
        answers={200: list[LogRowBody]},
        errors=("invalid_argument",),
        parameters=(
            *_FILTERS,
            _AFTER,
            Parameter("before", "only what precedes the event of this id", schema=_ROW),
            Parameter(
                "limit",
                f"1 to {HISTORY_MAX}",
                schema={"type": "integer", "minimum": 1, "default": HISTORY_MAX},
            ),
        ),
    ),
    Endpoint(
        method="POST",
        paths=("/admin/events/clear",),
        handler=clear_log,
        summary="Have history begin behind what there is now; nothing is deleted",
        access=Access.ADMIN,
        answers={200: ClearedBody},
    ),
)
