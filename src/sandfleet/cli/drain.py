"""`worker drain`, `worker undrain`: all sandboxes leave a worker, or it may take some again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, Url
from sandfleet.cli.output import say, show_json, tell

if TYPE_CHECKING:
    from sandfleet_sdk import Client, Drain

WORKER = Annotated[str, typer.Argument(metavar="WORKER", help="Its id.")]
DRAINED = "drained"
_LOOK_EVERY_S = 1.0


def drain(
    worker_id: WORKER,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is empty, and show how far it is.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Most that --wait waits.")
    ] = 3600.0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Have all sandboxes leave a worker while they run on; nothing new comes. Needs the scope `admin`."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        now = client.fleet.drain_worker(worker_id)
        if wait:
            now = _until_drained(client, now, until=time.monotonic() + timeout_s, is_quiet=as_json)
    if as_json:
        show_json(dict(now.raw))
    else:
        _show(now)
    if wait and now.state != DRAINED:
        raise _not_drained(now, timeout_s)


def undrain(worker_id: WORKER, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let a worker take sandboxes again. What is on its way elsewhere arrives there all the same."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        now = client.fleet.undrain_worker(worker_id)
    if as_json:
        show_json(dict(now.raw))
    else:
        say(f"{worker_id} takes sandboxes again.")


def _until_drained(client: Client, now: Drain, *, until: float, is_quiet: bool) -> Drain:
    last = ""
    while now.state != DRAINED and time.monotonic() < until:
        line = progress(now)
        if line != last and not is_quiet:
            last = line
            tell(line)
        time.sleep(_LOOK_EVERY_S)
        now = client.fleet.drain(now.worker_id)
    return now


def progress(now: Drain) -> str:
    """Return one line about how far it is."""
    counts = {why: sum(stay.why == why for stay in now.stays) for why in ("moving", "waiting", "held")}
    shown = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    return f"{now.moved} moved, {shown or 'the last is being cleared away'}"


def _show(now: Drain) -> None:
    if now.state == DRAINED:
        say(f"{now.worker_id} is drained: {now.moved} sandboxes moved.")
        return
    say(f"{now.worker_id} is being drained: {progress(now)}.")
    for stay in now.stays:
        if stay.why == "held":
            say(f"  {stay.sandbox_id} stays: {stay.reason}")


def _not_drained(now: Drain, timeout_s: float) -> Exception:
    from sandfleet.cli.errors import CommandFailed

    return CommandFailed(
        f"{now.worker_id} is not empty after {timeout_s:.0f} s",
        hint=f"the drain goes on; `sandfleet worker undrain {now.worker_id}` undoes it",
    )
