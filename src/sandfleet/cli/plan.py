"""`plan`: what the planners would do, on the fleet as it is or thought otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sandfleet.cli.options import ApiKey, AsJson, Url
from sandfleet.cli.output import say, show_json, show_table

Kind = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help="`create`, `wake`, `drain`, `remove_worker`, `capacity`, `pressure`, `rollout` or `tick` (all).",
    ),
]
Request = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="NAME=VALUE",
        help="What it is asked with, as memoryMB=2048, count=3 or workerID=wk-1; may be repeated.",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--change",
        metavar="JSON",
        help='How the fleet is thought otherwise, as \'{"removeWorker": "wk-1"}\'; may be repeated.',
    ),
]


def plan(  # noqa: PLR0913 -- one argument per option
    kind: Kind,
    *,
    request: Request = None,
    changes: Changes = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="As of when, as RFC 3339 has it. Default: now.")
    ] = None,
    view: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A whole fleet as JSON, in place of the one that is there: workers with their sandboxes, "
            "creates that wait, a policy.",
        ),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what the planners would do, with every reason; nothing is done. Needs the scope `admin`."""
    from sandfleet.cli.connection import connect

    asked, thought = _request(request or []), [_object(one, one) for one in changes or []]
    given = None if view is None else _object(_text(view), str(view))
    with connect(url, api_key) as client:
        found = client.fleet.plan(kind, request=asked, changes=thought, at=at, view=given)
    if as_json:
        show_json(dict(found.raw))
        return
    say(found.summary)
    if found.decisions:
        say("")
        decided = [(one.command, one.subject, one.to, one.reason) for one in found.decisions]
        show_table(("COMMAND", "SUBJECT", "TO", "REASON"), decided, empty="")
    if found.rejected:
        say("")
        passed = [(one.subject, one.worker_id, one.filter, one.reason) for one in found.rejected]
        show_table(("SUBJECT", "NOT", "FILTER", "REASON"), passed, empty="")


def _request(given: list[str]) -> dict[str, Any]:
    from sandfleet.cli.errors import CommandFailed

    asked: dict[str, Any] = {}
    for one in given:
        name, mark, value = one.partition("=")
        if not mark or not name:
            raise CommandFailed(f"{one} is not NAME=VALUE", hint="as in --with memoryMB=2048")
        asked[name] = int(value) if value.isdigit() else value
    return asked


def _text(path: Path) -> str:
    from sandfleet.cli.errors import CommandFailed

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{path} cannot be read: {error}") from error


def _object(text: str, name: str) -> dict[str, Any]:
    """Return a JSON object; `name` is how it is called when it is none."""
    from sandfleet.cli.errors import CommandFailed

    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise CommandFailed(f"{name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CommandFailed(f"{name} is not a JSON object", hint='as in \'{"removeWorker": "wk-1"}\'')
    return found
