"""`files ls`, `files rm`, `files mkdir`: files of a sandbox. Their content goes by `cp`."""

from __future__ import annotations

from typing import Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import show_json, show_table

app = typer.Typer(help="Files of a sandbox. Their content goes by `sandfleet cp`.", no_args_is_help=True)
Path = Annotated[str, typer.Argument(help="Path in the sandbox; relative ones begin at /home/sandbox.")]


@app.command("ls")
def ls(
    sandbox: SandboxName,
    path: Path = "/home/sandbox",
    *,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List a directory."""
    from dataclasses import asdict

    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        entries = client.files.list(resolve(client, sandbox), path)
    if as_json:
        show_json([asdict(entry) for entry in entries])
        return
    rows = [
        (
            e.mode,
            e.size if not e.is_directory else None,
            e.modified_at.isoformat(timespec="seconds") if e.modified_at else None,
            e.name + ("/" if e.is_directory else ""),
        )
        for e in entries
    ]
    show_table(("MODE", "SIZE", "CHANGED", "NAME"), rows, empty="the directory is empty")


@app.command("rm")
def rm(
    sandbox: SandboxName, path: Path, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Remove a file, or a directory with all in it."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        sandbox_id = resolve(client, sandbox)
        client.files.delete(sandbox_id, path)
    if as_json:
        show_json({"sandboxID": sandbox_id, "removed": path})


@app.command("mkdir")
def mkdir(
    sandbox: SandboxName, path: Path, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Make a directory, and those above it."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        sandbox_id = resolve(client, sandbox)
        client.files.make_directory(sandbox_id, path)
    if as_json:
        show_json({"sandboxID": sandbox_id, "made": path})
