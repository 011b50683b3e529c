"""`stats`, `tags`, `url`, `scale`, `reboot`, `power-cycle`: what is asked of one sandbox."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import say, show_json, show_table, tell, waiting

MIB = 1 << 20


class Direction(StrEnum):
    """What a signed URL is for."""

    DOWNLOAD = "download"
    UPLOAD = "upload"


def stats(sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show what a sandbox uses now; looking does not wake it."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        used = client.sandboxes.stats(resolve(client, sandbox))
    if as_json:
        show_json(used.raw)
        return
    memory = f"{used.memory_used_bytes // MIB} / {used.memory_limit_bytes // MIB} MiB"
    network = f"{used.net_input_bytes // 1024} / {used.net_output_bytes // 1024} KiB"
    columns = ("STATUS", "CPU", "MEMORY", "NET IN / OUT", "PROCESSES")
    row = (used.status, f"{used.cpu_percent:.1f} %", memory, network, used.processes)
    show_table(columns, [row], empty="")


def tags(
    sandbox: Annotated[
        str | None, typer.Argument(help="Id, its beginning, or alias; without it the keys in use.")
    ] = None,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Replace all tags by these.")
    ] = None,
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Take all tags away.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show or replace the tags of a sandbox; without a sandbox, the tag keys in use."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.pairs import parse_pairs
    from sandfleet.cli.sandbox_names import resolve

    given = parse_pairs(values or [], option="tags") or {}
    with connect(url, api_key) as client:
        if sandbox is None:
            keys = client.sandboxes.tag_keys()
            rows: list[tuple[str, object, object]] = [(k.key, k.sandboxes, k.values) for k in keys]
            columns: tuple[str, ...] = ("KEY", "SANDBOXES", "VALUES")
            shown: object = [{"key": k.key, "sandboxes": k.sandboxes, "values": k.values} for k in keys]
        else:
            name = resolve(client, sandbox)
            kept = client.sandboxes.set_tags(name, given) if given or clear else client.sandboxes.tags(name)
            rows = [(key, value, None) for key, value in kept.values.items()]
            columns, shown = ("TAG", "VALUE"), dict(kept.values)
    if as_json:
        show_json(shown)
    else:
        show_table(columns, [row[: len(columns)] for row in rows], empty="no tags")


def signed_url(  # noqa: PLR0913 -- one argument per option
    direction: Annotated[Direction, typer.Argument(help="Whether it reads or writes the file.")],
    sandbox: SandboxName,
    path: Annotated[str, typer.Argument(help="Path in the sandbox; relative ones begin at /home/sandbox.")],
    *,
    expires: Annotated[
        int | None, typer.Option(min=1, help="Seconds for which it works; at most a day. Default: an hour.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a URL by which anybody can read or write one file for a while, without a key."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        name = resolve(client, sandbox)
        if direction is Direction.DOWNLOAD:
            made = client.files.download_url(name, path, expires_in_s=expires)
        else:
            made = client.files.upload_url(name, path, expires_in_s=expires)
    if as_json:
        show_json({"url": made.url, "expiresAt": made.expires_at})
    else:
        say(made.url)


def scale(
    sandbox: SandboxName,
    memory: Annotated[int, typer.Argument(metavar="MIB", help="Memory in MiB.")],
    *,
    cpu_percent: Annotated[
        int | None, typer.Option(help="CPU limit in percent of one core. Default: all its vCPUs.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change memory and CPU of a running sandbox."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client, waiting("changing its size"):
        size = client.sandboxes.scale(resolve(client, sandbox), memory, cpu_percent=cpu_percent)
    if as_json:
        show_json(size.raw)
        return
    say(f"{size.memory_mib} MiB, {size.cpu_percent} % CPU")
    if size.autoscale_disabled:
        tell("its memory does not follow its use any more: `sandfleet autoscale SANDBOX on`")
    if size.pending:
        tell("the guest has not got there yet: see `sandfleet stats`")


def reboot(sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Restart the guest of a sandbox: the same disk, its processes lost."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client, waiting("restarting the guest"):
        sandbox_id = resolve(client, sandbox)
        client.sandboxes.reboot(sandbox_id)
    if as_json:
        show_json({"rebooted": sandbox_id})


def power_cycle(
    sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Replace the VM's process of a sandbox, as pulling the plug would."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client, waiting("starting its VM anew"):
        sandbox_id = resolve(client, sandbox)
        client.sandboxes.power_cycle(sandbox_id)
    if as_json:
        show_json({"powerCycled": sandbox_id})
