"""`server` and `worker`: the fleet's own processes, as they run in production."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        exists=True,
        dir_okay=False,
        help="TOML file; variables SANDFLEET_<NAME> override it. See docs/reference/settings.md.",
    ),
]


def server(*, settings: SettingsFile = None) -> None:
    """Run one replica of the control plane until SIGTERM."""
    from sandfleet.controlplane.main import run_server
    from sandfleet.controlplane.settings import load_settings

    try:
        loaded = load_settings(settings)
    except ValueError as error:
        raise _refused(error) from None
    run_server(loaded)


def run_worker_of(settings: Path | None) -> None:
    """Run the worker of this host until SIGTERM."""
    from sandfleet.cli.errors import CommandFailed
    from sandfleet.model.errors import SandfleetError
    from sandfleet.worker.main import run_worker
    from sandfleet.worker.settings import load_settings

    try:
        loaded = load_settings(settings)
    except ValueError as error:
        raise _refused(error) from None
    try:
        run_worker(loaded)
    except SandfleetError as error:
        raise CommandFailed(error.message) from error


def _refused(error: ValueError) -> Exception:
    from sandfleet.cli.errors import CommandFailed, ExitCode

    return CommandFailed(f"the settings are refused: {_without_values(error)}", code=ExitCode.USAGE)


def _without_values(error: ValueError) -> str:
    # pydantic quotes the offending input, which may be a secret.
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    places = [
        f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        for detail in error.errors(include_input=False)
    ]
    return "; ".join(places)
