"""`create`, `ls`, `rm`, `timeout`: sandboxes."""

from __future__ import annotations

from typing import Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import age, say, show_json, show_table, tell, waiting

_LIVING = (
    "creating",
    "running",
    "hibernating",
    "hibernated",
    "waking",
    "restoring",
    "rebooting",
    "migrating",
)
"""What `ls` shows: the API's own default leaves out those that sleep, whose owner still has them."""


def create(  # noqa: PLR0913 -- one argument per option
    *,
    template: Annotated[str | None, typer.Option(help="What it starts from. Default: base.")] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", "--name", help="A name to call it by instead of its id.")
    ] = None,
    memory: Annotated[int | None, typer.Option(help="Memory in MiB.")] = None,
    cpu: Annotated[int | None, typer.Option(help="Number of virtual CPUs.")] = None,
    disk: Annotated[int | None, typer.Option(help="Disk in MiB.")] = None,
    timeout: Annotated[
        int | None,
        typer.Option(
            help="Idle seconds after which it is saved and sleeps (without a store: ends); 0 is never."
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("-e", "--env", metavar="NAME=VALUE", help="Environment variable.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="NAME=VALUE", help="A note kept with it.")
    ] = None,
    network: Annotated[bool, typer.Option("--network/--no-network", help="Internet access.")] = True,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a sandbox and print its id when it is ready for commands."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.pairs import parse_pairs

    with connect(url, api_key) as client, waiting("creating a sandbox"):
        sandbox = client.sandboxes.create(
            template=template,
            alias=alias,
            memory_mib=memory,
            cpu_count=cpu,
            disk_mib=disk,
            timeout_s=timeout,
            envs=parse_pairs(env or [], option="-e"),
            metadata=parse_pairs(metadata or [], option="--metadata"),
            network=None if network else False,
        )
    if as_json:
        show_json(sandbox.raw)
    else:
        say(sandbox.id)


def ls(
    *,
    show_all: Annotated[bool, typer.Option("--all", "-a", help="Also those that have ended.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only ids.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List sandboxes, newest first."""
    from sandfleet.adapters.clock import SystemClock
    from sandfleet.cli.connection import connect

    with connect(url, api_key) as client:
        sandboxes = client.sandboxes.list(status=["all"] if show_all else _LIVING, limit=limit)
    if as_json:
        show_json([sandbox.raw for sandbox in sandboxes])
        return
    if quiet:
        for sandbox in sandboxes:
            say(sandbox.id)
        return
    now = SystemClock().now()
    rows = [
        (s.id, s.alias, s.status, f"{s.memory_mib} MiB", s.cpu_count, age(s.started_at, now=now), s.error)
        for s in sandboxes
    ]
    columns = ("SANDBOX", "ALIAS", "STATUS", "MEMORY", "CPU", "AGE", "ERROR")
    show_table(columns, rows, empty="no sandboxes: make one with `sandfleet create`")
    if len(sandboxes) == limit:
        tell(f"only the newest {limit} are shown: see --limit")


def rm(
    sandboxes: Annotated[list[str], typer.Argument(metavar="SANDBOX", help="Ids, beginnings, aliases.")],
    *,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """End sandboxes for good, with all that is in them."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        ids = [resolve(client, name) for name in sandboxes]
        for sandbox_id in ids:
            client.sandboxes.kill(sandbox_id)
            if not as_json:
                say(sandbox_id)
    if as_json:
        show_json({"ended": ids})


def timeout(
    sandbox: SandboxName,
    seconds: Annotated[int, typer.Argument(min=0, help="Idle seconds; 0 is never.")],
    *,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Set after how many idle seconds a sandbox ends."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        sandbox_id = resolve(client, sandbox)
        client.sandboxes.set_timeout(sandbox_id, seconds)
    if as_json:
        show_json({"sandboxID": sandbox_id, "timeout": seconds})
