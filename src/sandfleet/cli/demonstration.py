"""`demo`: a narrated tour that checks itself."""

from __future__ import annotations

import typer

from sandfleet.cli.options import AsJson, DataDir
from sandfleet.cli.output import say, show_json

_WORKERS = 2
"""One that a sandbox moves away from, and one that it moves to."""


def demo(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Start the fleet if needed, with two workers, and take a tour of it that checks each step."""
    from sandfleet.cli.local_fleet import ensure_up
    from sandfleet.local.demo import tour

    layout = ensure_up(data_dir, workers=_WORKERS)
    report = tour(layout, narrate=(lambda _line: None) if as_json else say)
    if as_json:
        show_json(report.as_json())
    else:
        report.show(say)
    if not report.is_complete:
        raise typer.Exit(1)
