"""`exec`: run a command in a sandbox; its output appears while it runs, its exit code is passed on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from sandfleet.cli.options import ApiKey, AsJson, SandboxName, Url

if TYPE_CHECKING:
    from sandfleet_sdk import ExecResult

_VALUED = frozenset({"-e", "--env", "--cwd", "-w", "--timeout", "-t", "--url", "--api-key"})


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
            "--timeout", "-t", min=1, max=86400, help="Seconds it may take. Default: the server's, 60."
        ),
    ] = None,
    no_tty: Annotated[
        bool, typer.Option("-T", "--no-tty", help="No terminal. There is none yet, so this changes nothing.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Run a command in a sandbox and exit with its code (124: timed out, 125: could not be run)."""
    from sandfleet.cli.connection import connect
    from sandfleet.cli.pairs import parse_pairs
    from sandfleet.cli.sandbox_names import resolve

    with _own_failures(as_json=as_json), connect(url, api_key) as client:
        result = client.commands.stream(
            resolve(client, sandbox),
            command[0],
            args=command[1:] or None,
            envs=parse_pairs(env or [], option="-e"),
            cwd=cwd,
            timeout_s=timeout,
            on_stdout=None if as_json else _writer(sys.stdout),
            on_stderr=None if as_json else _writer(sys.stderr),
        )
    _conclude(result, as_json=as_json)
    raise typer.Exit(exit_code(result))


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


def _conclude(result: ExecResult, *, as_json: bool) -> None:
    """Print what is left to say when the output has been handed out."""
    from sandfleet.cli.output import show_json, tell

    if as_json:
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
    elif result.truncated:
        tell("sandfleet: the output was longer than the server keeps; its end is missing")


def exit_code(result: ExecResult) -> int:
    """Return the code a shell would see."""
    from sandfleet.cli.errors import ExitCode

    if result.timed_out:
        return int(ExitCode.EXEC_TIMED_OUT)
    if result.signal is not None and result.exit_code < 0:
        return 128 + signal_number(result.signal)
    return result.exit_code if 0 <= result.exit_code <= 255 else 1


def signal_number(name: int | str) -> int:
    """Return a signal's number, given as one or by its name."""
    if isinstance(name, int):
        return name
    known = name if name.startswith("SIG") else f"SIG{name}"
    return int(signal.Signals[known]) if known in signal.Signals.__members__ else 0


def _writer(stream: Any) -> Any:
    def write(text: str) -> None:
        stream.buffer.write(text.encode())
        stream.buffer.flush()

    return write
