"""`autoscale`, `lock`, `unlock`: who may change the size of a sandbox."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import say, show_json


class Switch(StrEnum):
    """Whether the fleet follows the use."""

    ON = "on"
    OFF = "off"


def autoscale(  # noqa: PLR0913 -- one argument per option
    sandbox: SandboxName,
    switch: Annotated[Switch | None, typer.Argument(help="Without it, how it stands.")] = None,
    *,
    least: Annotated[
        int | None, typer.Option("--min", metavar="MIB", help="Least memory. Default: as before.")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max", metavar="MIB", help="Most memory. Default: as before.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Have the memory of a sandbox follow what it uses; a change by hand ends that."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.errors import CommandFailed, ExitCode
    from sandfleet.cli.sandbox_names import resolve

    if switch is None and (least is not None or most is not None):
        raise CommandFailed("--min and --max need `on` or `off`", code=ExitCode.USAGE)
    with connect(url, api_key) as client:
        name = resolve(client, sandbox)
        if switch is None:
            now = client.sandboxes.autoscale(name)
        else:
            now = client.sandboxes.set_autoscale(
                name, switch is Switch.ON, memory_min_mib=least, memory_max_mib=most
            )
    if as_json:
        show_json(dict(now.raw))
    else:
        say(f"{'on' if now.enabled else 'off'}, between {now.memory_min_mib} and {now.memory_max_mib} MiB")


def lock(sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let nobody change the size of a sandbox: not you, not its guest, not the fleet."""
    _set(sandbox, locked=True, url=url, api_key=api_key, as_json=as_json)


def unlock(sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Let the size of a sandbox be changed again; autoscale stays off until it is turned on."""
    _set(sandbox, locked=False, url=url, api_key=api_key, as_json=as_json)


def _set(sandbox: str, *, locked: bool, url: str | None, api_key: str | None, as_json: bool) -> None:
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        name = resolve(client, sandbox)
        now = client.sandboxes.set_scaling_lock(name, locked)
    if as_json:
        show_json({"sandboxID": name, "locked": now})
    else:
        say(f"The size of {name} is {'locked' if now else 'not locked any more'}.")
