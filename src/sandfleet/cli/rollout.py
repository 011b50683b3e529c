"""`rollout begin`, `status`, `cancel`: a new version for all workers that the fleet launches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, Url
from sandfleet.cli.output import say, show_json, show_table, tell

if TYPE_CHECKING:
    from sandfleet_sdk import Client, Rollout

app = typer.Typer(help="Bring a new version to all workers that the fleet launches.", no_args_is_help=True)
DONE = "done"
_LOOK_EVERY_S = 1.0

Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended, and show how far it is.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Most that --wait waits.")]


@app.command("begin")
def begin(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version of the workers' image.")],
    *,
    wait: Wait = False,
    timeout_s: Timeout = 7200.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Boot one worker of a version and have it run a sandbox, then a canary, then replace all others.

    It stops by itself and turns back when the new workers are not well. Needs the scope `admin`.
    """
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        now = client.fleet.begin_rollout(version)
        if wait:
            now = _until_over(client, now, until=time.monotonic() + timeout_s, is_quiet=as_json)
    _show(now, as_json=as_json)
    if wait and now.stage != DONE:
        raise _not_done(now, timeout_s)


@app.command("status")
def status(*, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the roll-out that is under way, or the last one: its steps, and each worker's version."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        found = client.fleet.list_rollouts()
        now = client.fleet.rollout(found[0].number) if found else None
    if now is not None:
        _show(now, as_json=as_json, is_whole=True)
    elif as_json:
        show_json(None)
    else:
        say("no version was rolled out yet")


@app.command("cancel")
def cancel(*, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Turn the roll-out round: its workers are replaced by the version before. Needs the scope `admin`."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.errors import CommandFailed

    with connect(url, api_key) as client:
        found = client.fleet.list_rollouts()
        if not found:
            raise CommandFailed("no version was rolled out yet")
        now = client.fleet.cancel_rollout(found[0].number)
    _show(now, as_json=as_json)


def _until_over(client: Client, now: Rollout, *, until: float, is_quiet: bool) -> Rollout:
    last = ""
    while now.under_way and time.monotonic() < until:
        if now.said != last and not is_quiet:
            last = now.said
            tell(now.said)
        time.sleep(_LOOK_EVERY_S)
        now = client.fleet.rollout(now.number)
    return now


def _show(now: Rollout, *, as_json: bool, is_whole: bool = False) -> None:
    if as_json:
        show_json(dict(now.raw))
        return
    say(f"roll-out {now.number}: version {now.version} after {now.previous or 'none'}, {now.stage}")
    if now.reason:
        say(f"  it turned round: {now.reason}")
    if now.said:
        say(f"  {now.said}")
    if not is_whole:
        return
    show_table(
        ("STAGE", "SINCE", "BY", "WHY"), [(s.stage, s.at, s.actor, s.reason) for s in now.steps], empty=""
    )
    rows = [
        (
            one.worker_id,
            one.version,
            f"{one.state}, draining" if one.draining else one.state,
            one.sandboxes,
            "yes" if one.proven else "",
        )
        for one in now.workers
    ]
    show_table(("WORKER", "VERSION", "STATE", "SANDBOXES", "PROVEN"), rows, empty="no workers")


def _not_done(now: Rollout, timeout_s: float) -> Exception:
    from sandfleet.cli.errors import CommandFailed

    if now.under_way:
        return CommandFailed(
            f"version {now.version} is not on every worker after {timeout_s:.0f} s",
            hint="it goes on; `sandfleet rollout cancel` turns it round",
        )
    return CommandFailed(f"version {now.version} was turned back: {now.reason}")
