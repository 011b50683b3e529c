"""`preview create`, `ls`, `rm`, `rotate`: guest ports that are seen from outside."""

from __future__ import annotations

from typing import Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url
from sandfleet.cli.output import say, show_json, show_table, tell

app = typer.Typer(help="Guest ports that are seen from outside by a host name.", no_args_is_help=True)
Port = Annotated[int, typer.Argument(min=1, max=65535, help="Port inside the sandbox.")]


@app.command("create")
def create(
    sandbox: SandboxName, port: Port, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Record a port and print its host name."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        preview = client.previews.create(resolve(client, sandbox), port)
    if as_json:
        show_json(preview.raw)
    else:
        say(preview.hostname)


@app.command("ls")
def ls(sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the recorded ports."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        previews = client.previews.list(resolve(client, sandbox))
    if as_json:
        show_json([preview.raw for preview in previews])
        return
    rows = [(preview.port, preview.hostname) for preview in previews]
    show_table(("PORT", "HOST NAME"), rows, empty="no recorded ports")


@app.command("rm")
def rm(
    sandbox: SandboxName, port: Port, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Remove the record of a port."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        client.previews.delete(resolve(client, sandbox), port)
    if as_json:
        show_json({"removed": port})


@app.command("rotate")
def rotate(sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Have previews ask for a new bearer token from now on, and print it once."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        token = client.previews.rotate_token(resolve(client, sandbox))
    if as_json:
        show_json({"previewAuthToken": token})
        return
    say(token)
    tell("keep it: it is not shown again")
