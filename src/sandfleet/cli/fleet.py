"""`fleet events`: what the fleet decided and saw, with every reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandfleet.cli.events import at
from sandfleet.cli.options import ApiKey, AsJson, Url
from sandfleet.cli.output import say, show_json, show_table, tell

if TYPE_CHECKING:
    from sandfleet_sdk import Event

app = typer.Typer(help="See what the fleet decided, and why.", no_args_is_help=True)
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help="`scaler`, `drain`, `rollout`, `worker`, `leader`, `pressure`, `migrate`, `create` …; "
        "may be repeated.",
    ),
]


@app.callback()
def fleet() -> None:
    """See what the fleet decided, and why."""


@app.command("events")
def events(  # noqa: PLR0913 -- one argument per option
    *,
    types: Types = None,
    worker: Annotated[str | None, typer.Option(metavar="WORKER", help="Only at this worker.")] = None,
    sandbox: Annotated[str | None, typer.Option(metavar="SANDBOX", help="Only of this sandbox's id.")] = None,
    launch: Annotated[str | None, typer.Option(metavar="LAUNCH", help="Only of this launch.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before this time, as RFC 3339 has it.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what users and workers did, and each step of each sandbox.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Oldest first, and on with what comes, until interrupted.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=2000, help="At most so many; not with --follow.")] = 50,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what the fleet decided and saw by itself, newest first, each with its reason.

    With --follow and --json one object per line. Needs the scope `admin`.
    """
    from sandfleet.cli.connection import connect

    # Whoever names a sandbox asks for what happened to it, whoever decided that.
    scope = None if everything or sandbox else "fleet"
    given = {"worker": worker, "sandbox": sandbox, "launch": launch, "since": since, "scope": scope}
    filters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with connect(url, api_key) as client:
        if follow:
            for event in client.fleet.follow_events(types=types or (), **filters):
                _show_next(event, as_json=as_json)
            return
        found = client.fleet.events(limit=limit, types=types or (), **filters)
    if as_json:
        show_json([dict(event.raw) for event in found])
        return
    rows = [(at(e), e.raw.get("type"), e.event, _about(e.raw), e.actor, e.reason) for e in found]
    show_table(("AT", "TYPE", "EVENT", "ABOUT", "BY", "WHY"), rows, empty="nothing is recorded")


def _show_next(event: Event, *, as_json: bool) -> None:
    from sandfleet_sdk import GAP

    if event.event == GAP:
        tell("some of what happened is no longer kept")
    elif as_json:
        say(json.dumps(event.raw, ensure_ascii=False))
    else:
        about, why = _about(event.raw), event.reason or "-"
        say(f"{at(event) or '-':<29}  {event.event:<17} {about}  {event.actor}: {why}")


def _about(row: Any) -> str:
    """Return whom or what it is about, in few words."""
    about = row.get("about") or {}
    words = [row.get("sandbox"), row.get("worker"), *(str(about[one]) for one in _ABOUT if one in about)]
    if "rollout" in about:
        words.append(f"roll-out {about['rollout']}")
    if row.get("from") != row.get("to"):
        words.append(f"{row.get('from') or '-'} -> {row.get('to') or '-'}")
    return " ".join(word for word in words if word) or "-"


_ABOUT = ("launch", "size", "part")
