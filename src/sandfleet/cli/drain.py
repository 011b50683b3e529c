"""`worker drain`, `undrain`, `evict`: sandboxes leave a worker, all or some, or it may take some again."""

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
STUCK = "stuck"
_LOOK_EVERY_S = 1.0


def drain(  # noqa: PLR0913 -- one for each option
    worker_id: WORKER,
    *,
    deadline_s: Annotated[
        float | None,
        typer.Option(
            "--deadline",
            metavar="SECONDS",
            help="When it is to be empty [3600]: what has not moved shortly before is put to sleep.",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for whoever looks at it.")] = None,
    no_hibernate: Annotated[
        bool, typer.Option("--no-hibernate", help="Put nothing to sleep: what nobody can take stays.")
    ] = False,
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
        hibernate = False if no_hibernate else None
        now = client.fleet.drain_worker(worker_id, deadline_s=deadline_s, reason=reason, hibernate=hibernate)
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


def evict(worker_id: WORKER, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Move as many sandboxes away from a worker as others have room for, now; the rest stays. Once."""
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        done = client.fleet.evict_worker(worker_id)
    if as_json:
        show_json(dict(done.raw))
        return
    say(f"{len(done.evicted)} sandboxes leave {worker_id}, {done.remaining} stay.")
    for sandbox_id, target in done.evicted:
        say(f"  {sandbox_id} moves to {target}")
    for stay in done.stays:
        say(f"  {stay.sandbox_id} stays: {stay.reason}")


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
    whys = ("moving", "waiting", "saving", "held")
    counts = {why: sum(stay.why == why for stay in now.stays) for why in whys}
    shown = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    left = shown or "the last is being cleared away"
    done = f"{now.moved} moved" + (f", {now.slept} put to sleep" if now.slept else "")
    return f"{done}, {left}" + (" (past its deadline)" if now.state == STUCK else "")


def _show(now: Drain) -> None:
    if now.state == DRAINED:
        slept = f", {now.slept} put to sleep" if now.slept else ""
        say(f"{now.worker_id} is drained: {now.moved} sandboxes moved{slept}.")
        return
    stands = "is stuck" if now.state == STUCK else "is being drained"
    say(f"{now.worker_id} {stands}: {progress(now)}.")
    for stay in now.stays:
        if stay.why == "held":
            say(f"  {stay.sandbox_id} stays: {stay.reason}")


def _not_drained(now: Drain, timeout_s: float) -> Exception:
    from sandfleet.cli.errors import CommandFailed

    return CommandFailed(
        f"{now.worker_id} is not empty after {timeout_s:.0f} s",
        hint=f"the drain goes on; `sandfleet worker undrain {now.worker_id}` undoes it",
    )
