"""`events`: what happened to a sandbox, and what happens to it now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import say, show_json, show_table, tell

if TYPE_CHECKING:
    from sandfleet_sdk import Client, Event

_ENDED = frozenset({"stopped", "failed", "error"})


def events(
    sandbox: SandboxName,
    *,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Oldest first, and on with what comes until the sandbox ends."),
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many; not with --follow.")] = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened to a sandbox, newest first; with --follow and --json one object per line."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        name = resolve(client, sandbox)
        if follow:
            _follow(client, name, as_json=as_json)
            return
        log = client.sandboxes.events(name, limit=limit)
    if as_json:
        show_json([event.raw for event in log])
        return
    rows = [(at(e), e.event, e.before, e.after, e.actor, e.reason) for e in log]
    show_table(("AT", "EVENT", "FROM", "TO", "BY", "REASON"), rows, empty="nothing is recorded")


def _follow(client: Client, sandbox_id: str, *, as_json: bool) -> None:
    from sandfleet_sdk import GAP

    for event in client.sandboxes.follow_events(sandbox_id):
        if event.event == GAP:
            tell("some of what happened is no longer kept")
            continue
        say(json.dumps(event.raw, ensure_ascii=False) if as_json else _line(event))
        if event.after in _ENDED:
            return


def _line(event: Event) -> str:
    moved = f"{event.before or '-'} -> {event.after or '-'}"
    return f"{at(event) or '-':<29}  {event.event:<14} {moved:<26} {event.actor}: {event.reason or '-'}"


def at(event: Event) -> str | None:
    """Return when it was, for people."""
    return event.at.isoformat(timespec="milliseconds") if event.at else None
