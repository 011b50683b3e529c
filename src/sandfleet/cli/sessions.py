"""`shell`, `attach` and `sessions`: programs that run on whether somebody watches or not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url

if TYPE_CHECKING:
    from sandfleet_sdk import Session

_SEEN_AGAIN_BYTES = 16 * 1024
_COMMAND_WIDTH = 60


def shell(
    sandbox: SandboxName,
    *,
    program: Annotated[str, typer.Option("--shell", help="What runs in the terminal.")] = "/bin/bash",
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Open a shell in a sandbox. Ctrl-] leaves it running; `attach` comes back to it."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve
    from sandfleet.cli.terminal import show, size

    with connect(url, api_key) as client:
        name = resolve(client, sandbox)
        cols, rows = size()
        terminal_id = client.sessions.start_terminal(name, shell=program, cols=cols, rows=rows)
        code = show(client, name, terminal_id)
    raise typer.Exit(code)


def attach(
    sandbox: SandboxName,
    session: Annotated[str, typer.Argument(metavar="SESSION", help="The id of a session or terminal.")],
    *,
    offset: Annotated[
        int | None, typer.Option("--offset", min=0, help="Begin at this byte of the output.")
    ] = None,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Only watch.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Attach to a session or terminal: what is kept of its output, then what comes."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.sandbox_names import resolve
    from sandfleet.cli.session_stream import follow
    from sandfleet.cli.terminal import show
    from sandfleet_sdk import NotFound

    with connect(url, api_key) as client:
        name = resolve(client, sandbox)
        try:
            client.sessions.get(name, session)
        except NotFound:
            found = client.sessions.get_terminal(name, session)
            begin = max(0, found.output_bytes - _SEEN_AGAIN_BYTES) if offset is None else offset
            code = show(client, name, session, offset=begin)
        else:
            watches = no_stdin or not sys.stdin.isatty()
            code = follow(
                client, name, session, gives_input=not watches, offset=offset or 0, ends_input=False
            )
    raise typer.Exit(code)


def sessions(
    sandbox: SandboxName, *, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """List the sessions of a sandbox, finished ones of the last ten minutes too."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.output import show_json, show_table
    from sandfleet.cli.sandbox_names import resolve

    with connect(url, api_key) as client:
        found = client.sessions.list(resolve(client, sandbox))
    if as_json:
        show_json([dict(one.raw) for one in found])
        return
    rows = [(one.id, _state(one), one.attached_clients, one.output_bytes, _command(one)) for one in found]
    columns = ("ID", "STATE", "CLIENTS", "OUTPUT", "COMMAND")
    show_table(columns, rows, empty="no session runs in this sandbox")


def _state(session: Session) -> str:
    return "running" if session.running else f"exited {session.exit_code}"


def _command(session: Session) -> str:
    text = " ".join((session.command, *session.args)).replace("\n", " ")
    return text if len(text) <= _COMMAND_WIDTH else text[: _COMMAND_WIDTH - 1] + "\u2026"
