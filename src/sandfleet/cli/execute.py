"""`exec`: run a command in a sandbox; its output appears while it runs, its exit code is passed on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url

if TYPE_CHECKING:
    from sandfleet_sdk import Client, ExecResult

_VALUED = frozenset({"-e", "--env", "--cwd", "-w", "--timeout", "--url", "--api-key"})
_TIMEOUT_S = 60
_SHELL = ("/bin/sh", "-c")


class ExecCommand(TyperCommand):
    """Takes options on both sides of the sandbox, and everything after as the command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring the options to the front before they are read."""
        from sandfleet.cli.exec_arguments import with_options_first

        return super().parse_args(ctx, with_options_first(args, valued=_VALUED))


def execute(  # noqa: PLR0913 -- one argument per option
    sandbox: SandboxName,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND", help="Program and arguments, or one line for the shell (`'ls | wc -l'`)."
        ),
    ],
    *,
    env: Annotated[
        list[str] | None, typer.Option("-e", "--env", metavar="NAME=VALUE", help="Environment variable.")
    ] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-w", help="Directory to run in.")] = None,
    timeout: Annotated[
        int | None,
        typer.Option(
            "--timeout", min=1, max=86400, help="Seconds it may take. Default: 60; with -i or -t no limit."
        ),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Pass standard input on to the command.")
    ] = False,
    tty: Annotated[
        bool, typer.Option("-t", "--tty", help="Run it in a terminal; Ctrl-] leaves it running.")
    ] = False,
    no_tty: Annotated[
        bool, typer.Option("-T", "--no-tty", help="No terminal, whatever else is said.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Run a command in a sandbox and exit with its code (124: timed out, 125: could not be run)."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.pairs import parse_pairs
    from sandfleet.cli.sandbox_names import resolve
    from sandfleet.cli.session_stream import follow

    with _own_failures(as_json=as_json), connect(url, api_key) as client:
        name, envs = resolve(client, sandbox), parse_pairs(env or [], option="-e")
        if as_json:
            code = _as_document(client, name, command, envs=envs, cwd=cwd, timeout_s=timeout)
        elif tty and not no_tty:
            code = _in_terminal(client, name, command, envs=envs, cwd=cwd)
        else:
            limit_s = timeout if timeout or interactive else _TIMEOUT_S
            program, *rest = _program(command)
            started = client.sessions.start(name, program, args=rest, envs=envs, cwd=cwd, timeout_s=limit_s)
            code = follow(client, name, started.id, gives_input=interactive)
    raise typer.Exit(code)


def _program(command: Sequence[str]) -> Sequence[str]:
    """Return program and arguments: a single word is a line for the shell."""
    return [*_SHELL, command[0]] if len(command) == 1 else list(command)


def _as_document(
    client: Client,
    sandbox: str,
    command: Sequence[str],
    *,
    envs: Mapping[str, str] | None,
    cwd: str | None,
    timeout_s: int | None,
) -> int:
    """Print the whole result as JSON."""
    from sandfleet.cli.exit_codes import exit_code

    result = client.commands.stream(
        sandbox, command[0], args=command[1:] or None, envs=envs, cwd=cwd, timeout_s=timeout_s
    )
    _show(result)
    return exit_code(result)


def _in_terminal(
    client: Client, sandbox: str, command: Sequence[str], *, envs: Mapping[str, str] | None, cwd: str | None
) -> int:
    """Run it in a terminal that is shown in this one."""
    from sandfleet.cli.terminal import show, size

    cols, rows = size()
    program, *arguments = _program(command)
    terminal_id = client.sessions.start_terminal(
        sandbox, shell=program, args=arguments, envs=envs, cwd=cwd, cols=cols, rows=rows
    )
    return show(client, sandbox, terminal_id)


@contextmanager
def _own_failures(*, as_json: bool) -> Iterator[None]:
    """Tell failures of `exec` itself, under codes that a command seldom has."""
    from sandfleet.cli.errors import CommandFailed, ExitCode, report
    from sandfleet_sdk import SandfleetError

    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("sandfleet: interrupted; the command goes on in the sandbox\n")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except (SandfleetError, CommandFailed) as error:
        report(error, as_json=as_json)
        raise typer.Exit(ExitCode.EXEC_FAILED) from None


def _show(result: ExecResult) -> None:
    from sandfleet.cli.output import show_json

    show_json(
        {
            "exitCode": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "signal": result.signal,
            "timedOut": result.timed_out,
            "truncated": result.truncated,
        }
    )
