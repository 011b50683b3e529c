"""Options that several commands share, and nothing else: imported by every start of the program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The server's address. Default: $SANDFLEET_URL, $OPENCOMPUTER_API_URL, or this machine's fleet.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        help="The API key. Default: $SANDFLEET_API_KEY, $OPENCOMPUTER_API_KEY, or the local fleet's.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Where the local fleet lives. Default: $SANDFLEET_DATA_DIR; for root /var/lib/sandfleet.",
    ),
]
SandboxName = Annotated[
    str, typer.Argument(metavar="SANDBOX", help="An id, the beginning of one, or an alias.")
]
EXECS = {"ignore_unknown_options": False, "allow_interspersed_args": False}
