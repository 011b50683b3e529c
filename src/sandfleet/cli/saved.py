"""`hibernate`, `wake`, `fork`: sandboxes that sleep, and new ones from one that runs or was saved."""

from __future__ import annotations

from typing import Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import say, show_json, size, tell, waiting


def hibernate(
    sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Save a sandbox with memory and processes, and free its place; the next call on it wakes it."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client, waiting("saving memory and disk", is_wanted=not as_json):
        saved = client.sandboxes.hibernate(resolve(client, sandbox))
    if as_json:
        show_json(saved.raw)
        return
    say(saved.sandbox_id)
    tell(f"{saved.status}, {size(saved.size_bytes)} saved")


def wake(
    sandbox: SandboxName,
    *,
    timeout: Annotated[
        int | None, typer.Option(min=0, help="A new idle timeout in seconds; 0 is never.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Bring a hibernated sandbox back where it was."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client, waiting("waking it", is_wanted=not as_json):
        woken = client.sandboxes.wake(resolve(client, sandbox), timeout_s=timeout)
    if as_json:
        show_json(woken.raw)
    else:
        say(woken.id)


def fork(  # noqa: PLR0913 -- one argument per option
    sandbox: SandboxName,
    *,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help="Name or id of a checkpoint. Default: as it is now."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100, help="How many.")] = 1,
    partial: Annotated[bool, typer.Option("--partial", help="Accept fewer if not all fit.")] = False,
    timeout: Annotated[int | None, typer.Option(min=0, help="Idle timeout in seconds; 0 is never.")] = None,
    env: Annotated[
        list[str] | None, typer.Option("-e", "--env", metavar="NAME=VALUE", help="Environment variable.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Start new sandboxes from a running one or from one of its checkpoints, and print their ids."""
    from sandfleet.cli.checkpoint import find_checkpoint
    from sandfleet.cli.connection import connect
    from sandfleet.cli.pairs import parse_pairs
    from sandfleet.cli.sandbox_names import resolve

    envs = parse_pairs(env or [], option="-e")
    with connect(url, api_key) as client, waiting("starting the forks", is_wanted=not as_json):
        source = resolve(client, sandbox)
        if checkpoint is None:
            forks = client.sandboxes.fork(source, count=count, partial=partial, timeout_s=timeout, envs=envs)
            made, shown, missing = list(forks.sandboxes), forks.raw, list(forks.missing)
        else:
            found = find_checkpoint(client.checkpoints.list(source), checkpoint)
            made = [client.checkpoints.fork(found.id, timeout_s=timeout, envs=envs) for _ in range(count)]
            shown, missing = {"sandboxes": [one.raw for one in made]}, []
    if as_json:
        show_json(shown)
        return
    for one in made:
        say(one.id)
    for reason in missing:
        tell(f"one is missing: {reason}")
